"""Queries, keys and values by one product; on the way back one kernel joins their gradients and sums the bias's.

    x --one product--> [B, T, (N + 2 K) H] --views--> q [B, N, T, H], k and v [B, K, T, H]
    dx, dweight <--two products-- joined <--one pass-- dq, dk, dv        dbias: the sums of that pass

Left to autograd, what is joined is read once more for the bias.

Axes: B batch, T time, D model, N heads, K kv heads, H head.
"""

from typing import Any

import torch
from torch import Tensor

from lm_torch.kernels import refuse_second_derivative

TILE, PROGRAMS = (16, 128, 4), 128
"""Rows and columns of a tile, and warps; partial sums of the bias's gradient, the same on every card."""


def projected_heads(
    x: Tensor, weight: Tensor, bias: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, N, T, H], k and v [B, K, T, H] of x [B, T, D]: weight [(N + 2 K) H, D], bias [(N + 2 K) H]."""
    q, k, v = _Heads.apply(x, weight, bias, heads, kv_heads)
    return q, k, v


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, heads: int, kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, weight, bias)
        y = torch.nn.functional.linear(x, weight, bias).view(*x.shape[:2], heads + 2 * kv_heads, -1).transpose(1, 2)
        q, k, v = y.split([heads, kv_heads, kv_heads], dim=1)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        x, weight, bias = ctx.saved_tensors
        dy, dbias = torch.ops.lm_torch.join_heads(dq, dk, dv)
        dweight = dy.t() @ x.reshape(len(dy), -1)
        return (dy @ weight).view(x.shape), dweight, dbias.to(bias.dtype), None, None


@torch.library.custom_op("lm_torch::join_heads", mutates_args=())
def _join(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """[B T, (N + 2 K) H], and its sums over the rows in float32."""
    from lm_torch.kernels.programs import heads as programs

    q, k, v = (a if a.stride(-1) == 1 else a.contiguous() for a in (q, k, v))
    joined, sums = _empty(q, k, v)
    tall, wide, warps = TILE
    rows, width = joined.shape
    tiles = -(-rows // tall)
    each = -(-tiles // PROGRAMS)
    count = -(-tiles // each)
    partial = sums.new_empty(count, width)
    programs.join[(count, -(-width // wide))](
        q, k, v, joined, partial, q.shape[1], k.shape[1], q.shape[2], rows, width, each,
        *[stride for a in (q, k, v) for stride in a.stride()[:3]],
        H=q.shape[3], ROWS=tall, COLUMNS=wide, num_warps=warps,
    )  # fmt: skip
    torch.sum(partial, dim=0, out=sums)
    return joined, sums


@_join.register_fake
def _empty(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    B, N, T, H = q.shape
    width = (N + 2 * k.shape[1]) * H
    return q.new_empty(B * T, width), q.new_empty(width, dtype=torch.float32)
