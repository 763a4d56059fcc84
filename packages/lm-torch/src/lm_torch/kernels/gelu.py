"""GELU of a product and its bias, in one kernel each way: the bias's gradient is summed while the slope passes by.

Without it the gradient of [rows, F] is read once more for its sum over the rows, and the product's bias costs the same
wherever it is added. The tanh form is computed as x times a logistic, of which the exponential is one instruction.

Axes: F feed-forward.
"""

from typing import Any

import torch
from torch import Tensor

from lm_torch.kernels import refuse_second_derivative

FORWARD, BACKWARD = (8, 256, 8), (16, 128, 4)
"""Rows and columns of a tile, and warps."""
PROGRAMS = 88
"""Partial sums of the bias's gradient. The same on every card, because the order of the sums depends on it."""


def bias_gelu(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    """GELU(x + bias): x [..., F], bias [F] of any type; so is its gradient."""
    y: Tensor = torch.ops.lm_torch.bias_gelu(x.contiguous(), bias, tanh)
    return y


def _empty(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    return torch.empty_like(x)


def bias_gelu_of(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    """The same, without a gradient."""
    from lm_torch.kernels.programs import gelu as programs

    y, width = _empty(x, bias, tanh), x.shape[-1]
    tall, wide, warps = FORWARD
    rows = x.numel() // width
    programs.forward[(-(-rows // tall), -(-width // wide))](
        x, bias, y, rows, width, BIAS=bias is not None, TANH=tanh, ROWS=tall, COLUMNS=wide, num_warps=warps
    )
    return y


_bias_gelu = torch.library.custom_op("lm_torch::bias_gelu", bias_gelu_of, mutates_args=())
_bias_gelu.register_fake(_empty)


def bias_gelu_backward_of(dy: Tensor, x: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the bias."""
    from lm_torch.kernels.programs import gelu as programs

    dx, width = torch.empty_like(x), x.shape[-1]
    tall, wide, warps = BACKWARD
    rows = x.numel() // width
    tiles = -(-rows // tall)
    each = -(-tiles // PROGRAMS)
    count = -(-tiles // each)
    sums = torch.empty(count, width, dtype=torch.float32, device=x.device)
    programs.backward[(count, -(-width // wide))](
        dy.contiguous(), x, bias, dx, sums, rows, width, each,
        BIAS=bias is not None, TANH=tanh, ROWS=tall, COLUMNS=wide, num_warps=warps,
    )  # fmt: skip
    return dx, x.new_empty(0) if bias is None else sums.sum(dim=0).to(bias.dtype)


_bias_gelu_backward = torch.library.custom_op("lm_torch::bias_gelu_backward", bias_gelu_backward_of, mutates_args=())


@_bias_gelu_backward.register_fake
def _empty_gradients(dy: Tensor, x: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if bias is None else torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.tanh = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivative()
    x, bias = ctx.saved_tensors
    dx, dbias = torch.ops.lm_torch.bias_gelu_backward(dy, x, bias, ctx.tanh)
    return dx, None if bias is None else dbias, None


_bias_gelu.register_autograd(_gradients, setup_context=_keep)
