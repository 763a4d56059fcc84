"""The operations of `fused`, under the same names, for the models of K seeds at once.

    weights [K, out, in], x [K, ..., in] --> one batched product, not K small ones

Every tensor has the seeds as its first axis, and nothing is added up across it: seed k's part of a result is what
`fused` makes of seed k's part of the arguments. A model that is built of these is that of all seeds (`lm_torch.seeds`).

Axes: K seeds, T time, D model, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_torch import fused
from lm_torch.clip import spread

gelu, gelu_tanh, silu, softmax = fused.gelu, fused.gelu_tanh, fused.silu, fused.softmax
token_losses = fused.token_losses


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [K, ..., in], weight [K, out, in], bias [K, out] -> [K, ..., out]."""
    y: Tensor = _Product.apply(x.flatten(1, -2), weight)
    y = y.view(*x.shape[:-1], -1)
    return y if bias is None else y + _along(bias, y)


class _Product(torch.autograd.Function):
    """x [K, rows, in], weight [K, out, in] -> [K, rows, out].

    Left to autograd, the gradient of a batch of weights would be transposed, and copied once more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return torch.bmm(dy, weight), torch.bmm(dy.mT, x)


def _along(vector: Tensor, x: Tensor) -> Tensor:
    """[K, n] in a shape that goes with x [K, ..., n]."""
    return vector.view(len(vector), *(1,) * (x.ndim - 2), -1)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """ids [K, ...], weight [K, V, D] -> [K, ..., D]."""
    seeds, count, _ = weight.shape
    first = torch.arange(0, seeds * count, count, device=ids.device)
    return F.embedding(ids + spread(first, ids), weight.flatten(0, 1))


def gelu_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool
) -> Tensor:
    """See `scratch.gelu_mlp`."""
    y = linear(x, up, up_bias)
    return linear(gelu_tanh(y) if tanh else gelu(y), down, down_bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [K, ..., D], weight [K, D] -> [K, ..., D]."""
    return F.rms_norm(x, x.shape[-1:], None, eps) * _along(weight, x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """x [K, ..., D], weight and bias [K, D] -> [K, ..., D]."""
    y = F.layer_norm(x, x.shape[-1:], None, None, eps) * _along(weight, x)
    return y if bias is None else y + _along(bias, x)


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """q [K, B, N, T, H] -> the same; to attention, a seed's rows are rows like others."""
    seen = None if mask is None else mask.flatten(0, 1)
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
    mixed = fused.scaled_dot_product_attention(queries, keys, values, seen, is_causal, drop)
    return mixed.unflatten(0, q.shape[:2])


def linear_token_losses(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The loss of each target: x [K, ..., D], weight [K, V, D], bias [K, V], targets [K, ...] -> [K, ...]."""
    if _fits(targets, weight):
        return token_losses(linear(x, weight, bias), targets)
    return torch.stack([fused.linear_token_losses(*one) for one in _apart(x, weight, bias, targets)])


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The loss of each seed, [K]: x [K, ..., D], weight [K, V, D], bias [K, V], targets and their weights [K, ...]."""
    if _fits(targets, weight):
        losses = token_losses(linear(x, weight, bias), targets)
        return (losses if weights is None else losses * weights).flatten(1).mean(dim=1)
    return torch.stack([fused.linear_cross_entropy(*one) for one in _apart(x, weight, bias, targets, weights)])


def _fits(targets: Tensor, weight: Tensor) -> bool:
    """Whether all logits may be held at once; else it is done seed by seed, as `fused` does it."""
    most = fused.GPU_LOGITS_BYTES if weight.is_cuda else fused.LOGITS_BYTES
    return 4 * targets.numel() * weight.shape[1] <= most


def _apart(*tensors: Tensor | None) -> list[tuple[Any, ...]]:
    """The arguments of each seed."""
    count = next(len(x) for x in tensors if x is not None)
    return list(zip(*((None,) * count if x is None else x.unbind() for x in tensors), strict=True))
