"""Causal attention on the CPU as batched products, which hold all attention weights, where torch's kernel is slower.

With dropout torch has no kernel: it draws masks of its own, and ours are the other backend's too. In bfloat16 its flash
kernel is slow backwards: six times slower at 64 positions than the batched products that it stands for, which torch
gives to oneDNN, on processors that multiply in bfloat16.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lm_torch import bfloat16, onednn
from lm_torch.dropout import Dropping

LONGEST = 1024
"""Positions up to which attention without dropout is made so."""


def is_better(q: Tensor, drop: Dropping | None) -> bool:
    """Whether causal self-attention over q [..., T, H] should be batched products."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or q.shape[-2] < 2:
        return False
    return drop is not None or (bfloat16.MULTIPLIED and q.dtype == torch.bfloat16 and q.shape[-2] <= LONGEST)


class _CausalAttention(torch.autograd.Function):
    """dropout(softmax(q k^T / sqrt(H))) v over [rows, T, H], causal; `factors` are dropout's, of [rows, T, T]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, factors: Tensor | None) -> Tensor:
        ctx.scale = 1 / math.sqrt(q.shape[-1])
        future = torch.full((q.shape[1], q.shape[1]), -math.inf, dtype=q.dtype).triu(1)
        weights = torch.softmax(torch.baddbmm(future, q, k.mT, alpha=ctx.scale), dim=-1)
        ctx.save_for_backward(q, k, v, weights, factors)
        return (weights if factors is None else weights * factors) @ v

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, factors = ctx.saved_tensors
        dweights = dy @ v.mT
        if factors is not None:
            dweights = dweights * factors
        if onednn.differentiated_again():  # spelled out, from what has a graph
            future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
            weights = torch.softmax((q @ k.mT * ctx.scale).masked_fill(future, -math.inf), dim=-1)
            dscores = weights * (dweights - (weights * dweights).sum(dim=-1, keepdim=True)) * ctx.scale
        else:
            # The gradient of softmax, w (dw - sum w dw), in one pass.
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype).mul_(ctx.scale)
        mixed = weights if factors is None else weights * factors
        return dscores @ k, dscores.mT @ q, mixed.mT @ dy, None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, drop: Dropping | None = None) -> Tensor:
    """q, k, v [..., T, H] -> [..., T, H]; query t sees the keys 0 to t, of which `drop` drops weights."""
    rows, length = q.shape[:-2].numel(), q.shape[-2]
    factors = drop.factors((rows, length, length), q.dtype) if drop else None
    y: Tensor = _CausalAttention.apply(*(a.reshape(rows, *a.shape[-2:]) for a in (q, k, v)), factors)
    return y.view(q.shape)
