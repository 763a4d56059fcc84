"""The parts of a model as modules that stand alone: Linear, Embedding, RMSNorm, LayerNorm, MLP, SwiGLU.

Parameters are float32, or of the `dtype` that a module is given; they are cast to the type of the input where they are
used, so that the type of the activations (float32, bfloat16 or float64) decides the type of the matrix products.
`kernels` is `scratch` or `fused`.

Axes: D model, F feed-forward.
"""

from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from lm_torch import fused, scratch

INIT_STD = 0.02
"""Of a module that is made on its own; a model's weights come from `lm_core.model.init`."""


Kernels = ModuleType
"""`scratch` or `fused`: modules that have the same functions."""
KERNELS: dict[str, Kernels] = {"scratch": scratch, "fused": fused}


def _initial(rows: int, columns: int, dtype: torch.dtype) -> nn.Parameter:
    weight = torch.empty(rows, columns, dtype=dtype)
    # On the meta device nothing is drawn, and torch would import its compiler for it.
    return nn.Parameter(weight if weight.is_meta else weight.normal_(std=INIT_STD))


def cast(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter in the type of the input. (`to` costs as much as a small layer even where it does nothing.)"""
    return parameter if parameter.dtype == x.dtype else parameter.to(x.dtype)


class Linear(nn.Module):
    """y = x W^T + b over the last axis."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        kernels: Kernels = fused,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.kernels = kernels
        self.weight = _initial(out_features, in_features, dtype)
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None

    def cast_to(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the type of x."""
        return cast(self.weight, x), None if self.bias is None else cast(self.bias, x)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.kernels.linear(x, *self.cast_to(x))


class Embedding(nn.Module):
    """A table of `count` vectors."""

    def __init__(self, count: int, d_model: int, kernels: Kernels = fused, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.kernels = kernels
        self.weight = _initial(count, d_model, dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., D], of the type of the table."""
        return self.kernels.embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, d_model: int, eps: float = 1e-5, kernels: Kernels = fused, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.eps, self.kernels = eps, kernels
        self.weight = nn.Parameter(torch.ones(d_model, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.kernels.rms_norm(x, cast(self.weight, x), self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias over the last axis."""

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        bias: bool = True,
        kernels: Kernels = fused,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.eps, self.kernels = eps, kernels
        self.weight = nn.Parameter(torch.ones(d_model, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_model, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        bias = self.bias
        return self.kernels.layer_norm(x, cast(self.weight, x), None if bias is None else cast(bias, x), self.eps)


class MLP(nn.Module):
    """Up, nonlinearity, down."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh",
        bias: bool = True,
        kernels: Kernels = fused,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.kernels, self.tanh = kernels, activation == "gelu_tanh"
        self.activation = kernels.gelu_tanh if self.tanh else kernels.gelu
        self.up_proj = Linear(d_model, d_ff, bias, kernels, dtype)
        self.down_proj = Linear(d_ff, d_model, bias, kernels, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.kernels.gelu_mlp(x, *self.up_proj.cast_to(x), *self.down_proj.cast_to(x), self.tanh)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        bias: bool = False,
        kernels: Kernels = fused,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.activation = kernels.silu
        self.gate_proj = Linear(d_model, d_ff, bias, kernels, dtype)
        self.up_proj = Linear(d_model, d_ff, bias, kernels, dtype)
        self.down_proj = Linear(d_ff, d_model, bias, kernels, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
