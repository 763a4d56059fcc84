"""The operations of `scratch`, under the same names, on the framework's fused kernels."""

import math
from collections.abc import Callable, Iterator
from typing import cast

import mlx.core as mx
from mlx import nn

from lm_mlx import scratch

LOGITS_BYTES = 1 << 26
"""Bytes of logits that `linear_cross_entropy`, `linear_token_losses` and `linear_token_marks` hold at a time."""

embedding = scratch.embedding
silu = nn.silu
gelu = nn.gelu
gelu_tanh = scratch.gelu_tanh  # the framework's takes a power, which is 22 times slower on the CPU


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """See `scratch.linear`."""
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def gelu_mlp(
    x: mx.array, up: mx.array, up_bias: mx.array | None, down: mx.array, down_bias: mx.array | None, tanh: bool
) -> mx.array:
    """See `scratch.gelu_mlp`."""
    y = linear(x, up, up_bias)
    return linear(gelu_tanh(y) if tanh else gelu(y), down, down_bias)


def softmax(x: mx.array, axis: int = -1) -> mx.array:
    """See `scratch.softmax`."""
    return mx.softmax(scratch.widened(x), axis=axis)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """See `scratch.rms_norm`."""
    # The framework's norms and attention make a float64 a float32 on the way.
    return scratch.rms_norm(x, weight, eps) if x.dtype == mx.float64 else mx.fast.rms_norm(x, weight, eps)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array | None, eps: float) -> mx.array:
    """See `scratch.layer_norm`."""
    if x.dtype == mx.float64:
        return scratch.layer_norm(x, weight, bias, eps)
    return mx.fast.layer_norm(x, weight, bias, eps)


def scaled_dot_product_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask: mx.array | None = None,
    is_causal: bool = False,
    drop: Callable[[mx.array], mx.array] | None = None,
) -> mx.array:
    """See `scratch.scaled_dot_product_attention`.

    The kernel takes [B, N, T, H] and no weights to drop; for anything else the operations are spelled out.
    """
    if drop is not None or q.ndim != 4 or q.dtype == mx.float64:
        return scratch.scaled_dot_product_attention(q, k, v, mask, is_causal, drop)
    seen: str | mx.array | None = "causal" if is_causal else mask
    if is_causal and mask is not None:  # the kernel takes one of the two
        seen = mask & mx.tril(mx.ones((q.shape[-2], k.shape[-2]), dtype=mx.bool_))
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(q.shape[-1]), mask=seen)


def token_losses(logits: mx.array, targets: mx.array) -> mx.array:
    """See `scratch.token_losses`."""
    return nn.losses.cross_entropy(scratch.widened(logits), targets, reduction="none")


def token_marks(logits: mx.array, targets: mx.array) -> mx.array:
    """See `scratch.token_marks`; log sum exp of the logits is the loss and the target's logit."""
    logits = scratch.widened(logits)
    losses, chosen = token_losses(logits, targets), mx.take_along_axis(logits, targets[..., None], axis=-1)
    rank = logits.shape[-1] - 1 - (logits < chosen).sum(axis=-1)
    confidence = mx.exp(logits.max(axis=-1) - chosen.squeeze(-1) - losses)
    return mx.stack([losses, rank.astype(logits.dtype), confidence])


def cross_entropy(logits: mx.array, targets: mx.array, weights: mx.array | None = None) -> mx.array:
    """See `scratch.cross_entropy`; the exponentials are kept for the gradients, and the weights are constants.

    The framework takes them twice, for the loss and for its softmax, and on the CPU of Linux they cost 10 ns each: at
    10,000 words more than the head's matrix products.
    """
    wide, places = scratch.widened(logits), targets[..., None]
    scales = None if weights is None else mx.stop_gradient(weights)[..., None]
    if mx.default_device() == mx.Device(mx.gpu):  # one kernel there
        losses = token_losses(wide, targets)
        return (losses if scales is None else losses * scales[..., 0]).mean()

    @mx.custom_function
    def with_exponentials(logits: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        largest = logits.max(axis=-1, keepdims=True)
        exps = mx.exp(logits - largest)
        sums = exps.sum(axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logits, places, axis=-1) - largest
        losses = mx.log(sums) - chosen
        return (losses if scales is None else losses * scales).mean(), exps, sums

    @with_exponentials.vjp
    def _(_: mx.array, cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]) -> mx.array:
        share = cotangents[0] / targets.size
        share = share if scales is None else share * scales
        slopes = cast(mx.array, _once(outputs[1], outputs[2], share))
        return mx.put_along_axis(slopes, places, mx.take_along_axis(slopes, places, axis=-1) - share, axis=-1)

    return cast(tuple[mx.array, ...], with_exponentials(wide))[0]


@mx.custom_function
def _once(exps: mx.array, sums: mx.array, share: mx.array) -> mx.array:
    """share exps / sums, which is not differentiated: what is kept of the loss does not suffice for it."""
    return exps * (share / sums)


@_once.vjp
def _(*_: object) -> mx.array:
    raise NotImplementedError(
        "the fused loss has no gradient of its gradient: use kernels = scratch, or lm_mlx.scratch.cross_entropy"
    )


def linear_token_losses(x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array) -> mx.array:
    """See `scratch.linear_token_losses`; the logits of some tokens at a time."""
    parts = [token_losses(logits, flat) for logits, flat in _some_at_a_time(x, weight, bias, targets)]
    return mx.concatenate(parts).reshape(targets.shape)


def linear_token_marks(x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array) -> mx.array:
    """See `scratch.linear_token_marks`; the logits of some tokens at a time.

    Each part is evaluated before the next is built: in one graph, all logits would wait for all losses, then all ranks.
    """
    parts = []
    for logits, flat in _some_at_a_time(x, weight, bias, targets):
        parts.append(token_marks(logits, flat))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=-1).reshape(3, *targets.shape)


def _some_at_a_time(
    x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array
) -> Iterator[tuple[mx.array, mx.array]]:
    """Logits [rows, V] and targets [rows] of a head."""
    rows, flat, chunk = x.reshape(-1, x.shape[-1]), targets.reshape(-1), _rows_at_a_time(weight)
    for i in range(0, len(rows), chunk):
        yield linear(rows[i : i + chunk], weight, bias), flat[i : i + chunk]


def _rows_at_a_time(weight: mx.array) -> int:
    return max(1, LOGITS_BYTES // (4 * weight.shape[0]))


def linear_cross_entropy(
    x: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array, weights: mx.array | None = None
) -> mx.array:
    """See `scratch.linear_cross_entropy`; many logits are made some tokens at a time, and again for the gradients."""
    rows, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    weights = None if weights is None else weights.reshape(-1)
    chunk = _rows_at_a_time(weight)
    if len(rows) <= chunk:
        return cross_entropy(linear(rows, weight, bias), targets, weights)
    # Wide where they go in, so that their gradients are added up in float32.
    wide = [scratch.widened(a) for a in (weight, bias) if a is not None]
    parts = []
    for start in range(0, len(rows), chunk):
        at = slice(start, start + chunk)
        part = rows[at], targets[at], None if weights is None else weights[at]
        parts.append(mx.checkpoint(_summed_loss)(*part, *wide))
    return mx.stack(parts).sum() / len(rows)


def _summed_loss(
    x: mx.array, targets: mx.array, weights: mx.array | None, weight: mx.array, bias: mx.array | None = None
) -> mx.array:
    logits = linear(x, weight.astype(x.dtype), None if bias is None else bias.astype(x.dtype))
    # A checkpoint would differentiate by all of its arguments, the ids among them.
    return cross_entropy(logits, mx.stop_gradient(targets), weights) * len(targets)
