"""Each operation of `scratch` and `fused`, rotary positions, dropout, clipping: the shared suite, and torch alone."""

from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_core.testing import ComponentConformance
from lm_core.testing.losses import TARGETS, D, V
from lm_core.testing.tensors import Array, both, draw
from lm_torch import fused, onednn
from lm_torch.clip import clip_by_global_norm


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None], mask, enable_gqa=q.shape[:-2] != k.shape[:-2])[0]


def rotate(x: Tensor, theta: float) -> Tensor:
    """A product of complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half) / half)
    z = torch.complex(*x.split(half, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


def clip(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    parameters = [torch.zeros_like(g) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters], norm


class TestTorch(ComponentConformance):
    backend_name = "torch"
    own = SimpleNamespace(
        linear=F.linear,
        contiguous=Tensor.contiguous,
        embedding=F.embedding,
        softmax=lambda x: torch.softmax(x, -1),
        silu=F.silu,
        gelu=F.gelu,
        gelu_tanh=lambda x: F.gelu(x, approximate="tanh"),
        rms_norm=lambda x, w, eps: F.rms_norm(x, w.shape, w, eps),
        layer_norm=lambda x, w, b, eps: F.layer_norm(x, w.shape, w, b, eps),
        scaled_dot_product_attention=attention,
        cross_entropy=lambda x, targets: F.cross_entropy(x.view(-1, x.shape[-1]), targets.view(-1)),
        rotate=rotate,
        clip=clip,
    )

    @staticmethod
    def tensor(array: Array) -> Tensor:
        return torch.from_numpy(np.array(array, np.int64 if array.dtype.kind in "iu" else array.dtype))

    @staticmethod
    def array(tensor: Tensor) -> Array:
        return tensor.detach().float().numpy()

    @staticmethod
    def narrow(tensor: Tensor) -> Tensor:
        return tensor.bfloat16()

    @staticmethod
    def differentiate(
        f: Callable[..., Tensor], tensors: Sequence[Tensor], upstream: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        y = f(*leaves)
        (y * upstream).sum().backward()  # y.backward(upstream) makes torch import its compiler
        return y, [leaf.grad for leaf in leaves]

    @staticmethod
    def clip(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor, Tensor]:
        norm, norms, factor = clip_by_global_norm(gradients, max_norm)
        assert (factor is None) == (max_norm == 0)
        return [g if factor is None else g * factor for g in gradients], norm, norms

    @both
    def test_a_loss_is_the_same_with_and_without_gradients(
        self, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.set_rows_at_a_time(4, monkeypatch)
        arguments = [torch.from_numpy(a).requires_grad_() for a in (draw(3, 5, D), draw(V, D), draw(V, seed=3))]
        tracked = kernels.linear_cross_entropy(*arguments, torch.from_numpy(TARGETS))
        with torch.no_grad():
            untracked = kernels.linear_cross_entropy(*arguments, torch.from_numpy(TARGETS))
        assert tracked.requires_grad
        assert not untracked.requires_grad
        assert tracked.item() == untracked.item()
        tracked.backward()
        once = [a.grad.clone() for a in arguments]
        kernels.linear_cross_entropy(*arguments, torch.from_numpy(TARGETS)).backward()
        for a, gradient in zip(arguments, once, strict=True):
            np.testing.assert_allclose(a.grad, 2 * gradient, rtol=1.3e-6, atol=1e-5)


@pytest.mark.parametrize(("x_shape", "size"), [((2, 3, 5), 5), ((5,), 5), ((4, 64, 64), 64), ((1024,), 1024)], ids=str)
def test_large_products_are_onednn_s(x_shape: tuple[int, ...], size: int) -> None:
    x, weight = torch.ones(x_shape), torch.ones(size, size)
    with onednn.using(frozenset(onednn.KINDS)):
        assert onednn.is_better(x, weight) == (size > 5)
    with onednn.using(onednn.NONE):
        assert not onednn.is_better(x, weight)


@pytest.mark.parametrize("needed", range(3))
def test_a_large_linear_gives_gradients_to_those_that_ask_alone(needed: int) -> None:
    tensors = [torch.from_numpy(draw(*shape)) for shape in ((4, 64, 64), (64, 64), (64,))]
    tensors[needed].requires_grad_()
    fused.linear(*tensors).square().sum().backward()
    assert [t.grad is not None for t in tensors] == [i == needed for i in range(3)]
