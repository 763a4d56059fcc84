"""Each operation of `scratch` and `fused`, rotary positions, dropout, clipping: the shared suite."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lm_core.testing import ComponentConformance
from lm_core.testing.tensors import Array

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn
from mlx.optimizers import clip_grad_norm

from lm_mlx.clip import clip_by_global_norm


def linear(x: mx.array, w: mx.array, b: mx.array | None = None) -> mx.array:
    layer = nn.Linear(*w.shape[::-1], bias=b is not None)
    layer.update({"weight": w} if b is None else {"weight": w, "bias": b})
    return layer(x)


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array) -> mx.array:
    """MLX's kernel takes [B, N, T, H]."""
    four = (a.reshape(-1, *a.shape[-3:]) if a.ndim > 2 else a[None, None] for a in (q, k, v))
    return mx.fast.scaled_dot_product_attention(*four, scale=q.shape[-1] ** -0.5, mask=mask).reshape(q.shape)


def rotate(x: mx.array, theta: float) -> mx.array:
    rows = x.reshape(-1, *x.shape[-2:])
    return mx.fast.rope(rows, x.shape[-1], traditional=False, base=theta, scale=1.0, offset=0).reshape(x.shape)


def clip(gradients: list[mx.array], max_norm: float) -> tuple[list[mx.array], mx.array]:
    clipped, norm = clip_grad_norm(dict(enumerate(gradients)), max_norm)
    return list(clipped.values()), norm


class TestMlx(ComponentConformance):
    backend_name = "mlx"
    own = SimpleNamespace(
        linear=linear,
        contiguous=mx.contiguous,
        embedding=lambda ids, w: mx.take(w, ids, axis=0),
        softmax=lambda x: mx.softmax(x, axis=-1),
        silu=nn.silu,
        gelu=nn.gelu,
        gelu_tanh=nn.gelu_approx,
        rms_norm=mx.fast.rms_norm,
        layer_norm=mx.fast.layer_norm,
        scaled_dot_product_attention=attention,
        cross_entropy=lambda x, targets: nn.losses.cross_entropy(x, targets, reduction="mean"),
        rotate=rotate,
        clip=clip,
    )

    @pytest.fixture(autouse=True)
    def _on_the_cpu(self) -> Iterator[None]:
        before = mx.default_device()
        mx.set_default_device(mx.cpu)
        yield
        mx.set_default_device(before)

    @staticmethod
    def tensor(array: Array) -> mx.array:
        return mx.array(array)

    @staticmethod
    def array(tensor: mx.array) -> Array:
        return np.array(tensor.astype(mx.float32))

    @staticmethod
    def narrow(tensor: mx.array) -> mx.array:
        return tensor.astype(mx.bfloat16)

    @staticmethod
    def differentiate(
        f: Callable[..., Any], tensors: Sequence[mx.array], upstream: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        [y], gradients = mx.vjp(lambda *given: [f(*given)], list(tensors), [upstream])
        return y, gradients

    @staticmethod
    def clip(gradients: list[mx.array], max_norm: float) -> tuple[list[mx.array], mx.array, mx.array]:
        clipped, norm, norms = clip_by_global_norm(dict(enumerate(gradients)), max_norm)
        return list(clipped.values()), norm, norms
