"""The operations of the model, spelled out. `fused` has the same names on the framework's kernels, and a test holds
each against the one here.

All of them take any leading dimensions. Sums that decide a scale (softmax, norms, losses) are made in float32, whatever
the type of the activations; float64 stays float64 throughout.

Axes: T queries, S keys, N heads, K kv heads, H head, D model, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is that."""
    return x if x.dtype == torch.float64 else x.float()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    y = x @ weight.mT
    return y if bias is None else y + bias


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """The rows of the table: ids [...], weight [V, D] -> [..., D]."""
    return weight[ids]


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum exp(x) over an axis, the last by default; the largest is taken off, so that nothing overflows."""
    x = widened(x)
    exps = (x - x.amax(dim=axis, keepdim=True)).exp()
    return exps / exps.sum(dim=axis, keepdim=True)


def silu(x: Tensor) -> Tensor:
    """x times its logistic (Elfwing et al. 2017)."""
    return x * x.sigmoid()


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU, from the same paper."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool
) -> Tensor:
    """An MLP: `linear`, `gelu` or `gelu_tanh`, `linear`; x [..., D], up [F, D], down [D, F] -> [..., D]."""
    y = linear(x, up, up_bias)
    return linear(gelu_tanh(y) if tanh else gelu(y), down, down_bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) * weight over the last axis (Zhang and Sennrich 2019)."""
    wide = widened(x)
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016)."""
    wide = widened(x)
    centred = wide - wide.mean(dim=-1, keepdim=True)
    y = (centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype) * weight
    return y if bias is None else y + bias


def repeated(x: Tensor, heads: int) -> Tensor:
    """Keys or values [..., K, S, H], each for the N / K query heads that it serves: [..., N, S, H]."""
    return x if x.shape[-3] == heads else x.repeat_interleave(heads // x.shape[-3], dim=-3)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(H)), [..., T, S], for as many heads of k as of q; see `scaled_dot_product_attention`."""
    scores = widened(q @ k.mT) / math.sqrt(q.shape[-1])
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return softmax(scores)


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
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
    return (weights if drop is None else drop(weights)).to(v.dtype) @ v


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """log sum exp(logits) - logits[target] in nats: logits [..., V], targets [...] -> [...]."""
    logits = widened(logits)
    logits = logits - logits.amax(dim=-1, keepdim=True)
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return logits.exp().sum(dim=-1).log() - chosen


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over all targets of weight x loss in nats: logits [..., V], targets [...], weights [...] -> a scalar.

    It is divided by the number of targets, whatever the weights sum to, so it is linear in them.
    """
    losses = token_losses(logits, targets)
    return (losses if weights is None else losses * weights).mean()


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
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


def linear_token_losses(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The loss of each target of an output head: x [..., D], weight [V, D], bias [V], targets [...] -> [...]."""
    return token_losses(linear(x, weight, bias), targets)


def token_marks(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats, rank, confidence of each target (`lm_core.backend.Marks`): logits [..., V], targets [...] -> [3, ...]."""
    logits = widened(logits)
    chosen = logits.gather(-1, targets.unsqueeze(-1))
    rank = (~(logits < chosen)).sum(dim=-1) - 1
    return torch.stack([token_losses(logits, targets), rank.to(logits.dtype), softmax(logits).amax(dim=-1)])


def linear_token_marks(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The marks of each target of an output head: x [..., D], weight [V, D], bias [V], targets [...] -> [3, ...]."""
    return token_marks(linear(x, weight, bias), targets)
