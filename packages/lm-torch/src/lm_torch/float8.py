"""The operations of an MLP with products in float8, under the names that they have in `fused`.

    x -------rows scaled, e4m3--> product --> y         dy --------rows scaled, e5m2--> product --> dx
    weight --rows scaled, e4m3------^                   weight^T --rows scaled, e4m3------^
                                                        dweight = dy^T x, in bfloat16

Every row of a matrix (a token, or what an output or input feature is made of) is divided by a scale of its own, so that
its largest element is the largest number of its type (for the types: Micikevicius et al. 2022, arXiv 2209.05433). A
scale is a function of the row alone: no maximum is kept from one step to the next, and a resumed run has the same bits
for free. e5m2 has the wider range, which gradients need. Weights' gradients stay in bfloat16: they are sums over all
tokens.

A CUDA device multiplies these types from compute capability 8.9 on; a CPU widens and multiplies in float32, which tells
what float8 does to a loss, and is slow. Layers with a side that is no multiple of 16, for which there are no products,
stay in bfloat16.

Axes: R rows, n what a product sums over.
"""

from typing import Any

import torch
from torch import Tensor

from lm_torch import fused, kernels

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
SMALLEST = 1e-20
"""Of a scale: a row of zeros is divided by it."""
MULTIPLE = 16

gelu, gelu_tanh, silu = fused.gelu, fused.gelu_tanh, fused.silu


def scaled_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [R, n] as narrow [R, n] times scale [R, 1], float32."""
    wide = x.float()
    scale = (wide.abs().amax(dim=1, keepdim=True) / LARGEST[dtype]).clamp(min=SMALLEST)
    return (wide / scale).to(dtype).contiguous(), scale


def product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, fast: bool = False) -> Tensor:
    """a b^T of scaled rows, in bfloat16: a [R, n] and b [m, n] in float8, their scales [R, 1] and [m, 1] -> [R, m].

    `fast` lets the matrix units add up with fewer bits, which is enough for a forward pass.
    """
    if a.is_cuda:
        return torch._scaled_mm(a, b.t(), a_scale, b_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=fast)
    return ((a.float() * a_scale) @ (b.float() * b_scale).t()).bfloat16()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `scratch.linear`."""
    if weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE or x.dtype != torch.bfloat16:
        return fused.linear(x, weight, bias)
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight)
    y = y.view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


class _Product(torch.autograd.Function):
    """x [R, n], weight [m, n] -> [R, m]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(*scaled_rows(x, E4M3), *scaled_rows(weight, E4M3), fast=True)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        kernels.refuse_second_derivative("float8 products have", "dtype = bfloat16")
        x, weight = ctx.saved_tensors
        dx = product(*scaled_rows(dy, E5M2), *scaled_rows(weight.t(), E4M3))
        return dx, dy.t() @ x


def gelu_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool
) -> Tensor:
    """See `scratch.gelu_mlp`."""
    y = linear(x, up, up_bias)
    return linear(gelu_tanh(y) if tanh else gelu(y), down, down_bias)
