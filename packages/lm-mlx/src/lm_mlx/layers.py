"""The parts of a model as modules that stand alone: Linear, Embedding, RMSNorm, LayerNorm, MLP, SwiGLU.

Parameters are float32, or of the `dtype` that a module is given; they are cast to the type of the input where they are
used, so that the type of the activations (float32, bfloat16 or float64) decides the type of the matrix products.
`kernels` is `scratch` or `fused`.

Axes: D model, F feed-forward.
"""

from types import ModuleType
from typing import Literal

import mlx.core as mx
from mlx import nn

from lm_mlx import fused, scratch

INIT_STD = 0.02
"""Of a module that is made on its own; a model's weights come from `lm_core.model.init`."""


Kernels = ModuleType
"""`scratch` or `fused`: modules that have the same functions."""
KERNELS: dict[str, Kernels] = {"scratch": scratch, "fused": fused}


def _initial(rows: int, columns: int, dtype: mx.Dtype) -> mx.array:
    return (mx.random.normal((rows, columns)) * INIT_STD).astype(dtype)


class Linear(nn.Module):
    """y = x W^T + b over the last axis."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        kernels: Kernels = fused,
        dtype: mx.Dtype = mx.float32,
    ):
        super().__init__()
        self.kernels = kernels
        self.weight = _initial(out_features, in_features, dtype)
        if bias:
            self.bias = mx.zeros((out_features,), dtype)

    def cast_to(self, x: mx.array) -> tuple[mx.array, mx.array | None]:
        """Weight and bias in the type of x."""
        return self.weight.astype(x.dtype), self.bias.astype(x.dtype) if "bias" in self else None

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out]."""
        return self.kernels.linear(x, *self.cast_to(x))


class Embedding(nn.Module):
    """A table of `count` vectors."""

    def __init__(self, count: int, d_model: int, kernels: Kernels = fused, dtype: mx.Dtype = mx.float32):
        super().__init__()
        self.kernels = kernels
        self.weight = _initial(count, d_model, dtype)

    def __call__(self, ids: mx.array) -> mx.array:
        """[...] -> [..., D], of the type of the table."""
        return self.kernels.embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, d_model: int, eps: float = 1e-5, kernels: Kernels = fused, dtype: mx.Dtype = mx.float32):
        super().__init__()
        self.eps, self.kernels = eps, kernels
        self.weight = mx.ones((d_model,), dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., D] -> [..., D]."""
        return self.kernels.rms_norm(x, self.weight.astype(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias over the last axis."""

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        bias: bool = True,
        kernels: Kernels = fused,
        dtype: mx.Dtype = mx.float32,
    ):
        super().__init__()
        self.eps, self.kernels = eps, kernels
        self.weight = mx.ones((d_model,), dtype)
        if bias:
            self.bias = mx.zeros((d_model,), dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., D] -> [..., D]."""
        bias = self.bias.astype(x.dtype) if "bias" in self else None
        return self.kernels.layer_norm(x, self.weight.astype(x.dtype), bias, self.eps)


class MLP(nn.Module):
    """Up, nonlinearity, down."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh",
        bias: bool = True,
        kernels: Kernels = fused,
        dtype: mx.Dtype = mx.float32,
    ):
        super().__init__()
        self.kernels, self.tanh = kernels, activation == "gelu_tanh"
        self.activation = kernels.gelu_tanh if self.tanh else kernels.gelu
        self.up_proj = Linear(d_model, d_ff, bias, kernels, dtype)
        self.down_proj = Linear(d_ff, d_model, bias, kernels, dtype)

    def __call__(self, x: mx.array) -> mx.array:
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
        dtype: mx.Dtype = mx.float32,
    ):
        super().__init__()
        self.activation = kernels.silu
        self.gate_proj = Linear(d_model, d_ff, bias, kernels, dtype)
        self.up_proj = Linear(d_model, d_ff, bias, kernels, dtype)
        self.down_proj = Linear(d_ff, d_model, bias, kernels, dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., D] -> [..., D]."""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
