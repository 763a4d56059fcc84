"""The operations of the model, spelled out. `fused` has the same names on the framework's kernels, and a test holds
each against the one here.

All of them take any leading dimensions. Sums that decide a scale (softmax, norms, losses) are made in float32, whatever
the type of the activations. float64, which MLX has on the CPU, stays float64 throughout; but MLX itself gives the
exponential, the logistic, erf, sine and cosine of a float64 to the digits of a float32.

Axes: T queries, S keys, N heads, K kv heads, H head, D model, V vocabulary.
"""

import math
from collections.abc import Callable

import mlx.core as mx


def widened(x: mx.array) -> mx.array:
    """x in float32, or in float64 where it is that."""
    return x if x.dtype == mx.float64 else x.astype(mx.float32)


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """y = x W^T + b: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    y = x @ weight.T
    return y if bias is None else y + bias


def embedding(ids: mx.array, weight: mx.array) -> mx.array:
    """The rows of the table: ids [...], weight [V, D] -> [..., D]."""
    return weight[ids]


def softmax(x: mx.array, axis: int = -1) -> mx.array:
    """exp(x) / sum exp(x) over an axis, the last by default; the largest is taken off, so that nothing overflows."""
    x = widened(x)
    exps = mx.exp(x - mx.stop_gradient(x.max(axis=axis, keepdims=True)))
    return exps / exps.sum(axis=axis, keepdims=True)


def silu(x: mx.array) -> mx.array:
    """x times its logistic (Elfwing et al. 2017)."""
    return x * mx.sigmoid(x)


def gelu(x: mx.array) -> mx.array:
    """x Phi(x) (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1 + mx.erf(x / math.sqrt(2)))


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh form of GELU, from the same paper; no `power`, which is 22 times slower on the CPU."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * (x * x))))


def gelu_mlp(
    x: mx.array, up: mx.array, up_bias: mx.array | None, down: mx.array, down_bias: mx.array | None, tanh: bool
) -> mx.array:
    """An MLP: `linear`, `gelu` or `gelu_tanh`, `linear`; x [..., D], up [F, D], down [D, F] -> [..., D]."""
    y = linear(x, up, up_bias)
    return linear(gelu_tanh(y) if tanh else gelu(y), down, down_bias)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x / sqrt(mean x^2 + eps) * weight over the last axis (Zhang and Sennrich 2019)."""
    wide = widened(x)
    return (wide * mx.rsqrt(mx.square(wide).mean(axis=-1, keepdims=True) + eps)).astype(x.dtype) * weight


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array | None, eps: float) -> mx.array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016)."""
    wide = widened(x)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    y = (centred * mx.rsqrt(mx.square(centred).mean(axis=-1, keepdims=True) + eps)).astype(x.dtype) * weight
    return y if bias is None else y + bias


def repeated(x: mx.array, heads: int) -> mx.array:
    """Keys or values [..., K, S, H], each for the N / K query heads that it serves: [..., N, S, H]."""
    return x if x.shape[-3] == heads else mx.repeat(x, heads // x.shape[-3], axis=-3)


def attention_weights(q: mx.array, k: mx.array, mask: mx.array | None = None, is_causal: bool = False) -> mx.array:
    """softmax(q k^T / sqrt(H)), [..., T, S], for as many heads of k as of q; see `scaled_dot_product_attention`."""
    scores = widened(q @ k.swapaxes(-1, -2)) / math.sqrt(q.shape[-1])
    if is_causal:
        past = mx.arange(scores.shape[-2])[:, None] >= mx.arange(scores.shape[-1])
        scores = mx.where(past, scores, -mx.inf)
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf)
    return softmax(scores)


def scaled_dot_product_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask: mx.array | None = None,
    is_causal: bool = False,
    drop: Callable[[mx.array], mx.array] | None = None,
) -> mx.array:
    """softmax(q k^T / sqrt(H)) v (Vaswani et al. 2017, equation 1).

    Args:
        q: [..., T, H], or [..., N, T, H] for grouped kv heads.
        k: [..., S, H], or [..., K, S, H], of which each head serves N / K query heads (Ainslie et al. 2023).
        v: as k.
        mask: bool, broadcast to [..., T, S]; True where a query may see a key. Every query needs one key at least.
        is_causal: query t sees the keys 0 to t.
        drop: what is done to the attention weights before they mix v.

    Returns:
        [..., T, H].
    """
    if q.ndim > 2:
        k, v = (repeated(a, q.shape[-3]) for a in (k, v))
    weights = attention_weights(q, k, mask, is_causal)
    return (weights if drop is None else drop(weights)).astype(v.dtype) @ v


def token_losses(logits: mx.array, targets: mx.array) -> mx.array:
    """log sum exp(logits) - logits[target] in nats: logits [..., V], targets [...] -> [...]."""
    logits = widened(logits)
    logits = logits - mx.stop_gradient(logits.max(axis=-1, keepdims=True))
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    return mx.log(mx.exp(logits).sum(axis=-1)) - chosen


def cross_entropy(logits: mx.array, targets: mx.array, weights: mx.array | None = None) -> mx.array:
    """Mean over all targets of weight x loss in nats: logits [..., V], targets [...], weights [...] -> a scalar.

    It is divided by the number of targets, whatever the weights sum to, so it is linear in them.
    """
    losses = token_losses(logits, targets)
    return (losses if weights is None else losses * weights).mean()


def linear_cross_entropy(
    x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array, weights: mx.array | None = None
) -> mx.array:
    """The loss of an output head, see `cross_entropy`.

    Args:
        x: [..., D].
        weight: of the head, [V, D].
        bias: of the head, [V].
        targets: [...].
        weights: of the targets, [...], float32; 1 by default. `fused` takes them as constants.

    Returns:
        A scalar.
    """
    return cross_entropy(linear(x, weight, bias), targets, weights)


def linear_token_losses(x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array) -> mx.array:
    """The loss of each target of an output head: x [..., D], weight [V, D], bias [V], targets [...] -> [...]."""
    return token_losses(linear(x, weight, bias), targets)


def token_marks(logits: mx.array, targets: mx.array) -> mx.array:
    """Nats, rank, confidence of each target (`lm_core.backend.Marks`): logits [..., V], targets [...] -> [3, ...]."""
    logits = widened(logits)
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)
    rank = mx.logical_not(logits < chosen).sum(axis=-1) - 1
    return mx.stack([token_losses(logits, targets), rank.astype(logits.dtype), softmax(logits).max(axis=-1)])


def linear_token_marks(x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array) -> mx.array:
    """The marks of each target of an output head: x [..., D], weight [V, D], bias [V], targets [...] -> [3, ...]."""
    return token_marks(linear(x, weight, bias), targets)
