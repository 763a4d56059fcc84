"""Gradients of gradients: right, or refused by name. Never a constant without a word."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mlx.core")

import mlx.core as mx

from lm_mlx import fused, scratch
from lm_mlx.dropout import dropout

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])
V, D = 11, 6
TARGETS = mx.arange(15) % V
Array = NDArray[Any]


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def some(*shapes: tuple[int, ...]) -> list[Any]:
    draw = np.random.default_rng(0)
    return [mx.array(draw.standard_normal(shape).astype(np.float32)) for shape in shapes]


def penalty(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The sum of the squares of a loss's gradients."""
    return lambda *a: sum(mx.square(g).sum() for g in gradients(loss, *a))


def gradients(loss: Callable[..., Any], *arguments: Any) -> list[Any]:
    """By each argument."""
    found = mx.grad(loss, list(range(len(arguments))))(*arguments)
    return [found] if len(arguments) == 1 else list(found)


OPERATIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda k, x, w, b: mx.square(k.linear(x, w, b)), [(3, 4), (5, 4), (5,)]),
    "softmax": (lambda k, x: mx.square(k.softmax(x)), [(3, 5)]),
    "silu": (lambda k, x: k.silu(x), [(5,)]),
    "gelu": (lambda k, x: k.gelu(x), [(5,)]),
    "gelu_tanh": (lambda k, x: k.gelu_tanh(x), [(5,)]),
    "rms_norm": (lambda k, x, w: mx.square(k.rms_norm(x, w, 1e-5)), [(3, 4), (4,)]),
    "layer_norm": (lambda k, x, w, b: mx.square(k.layer_norm(x, w, b, 1e-5)), [(3, 4), (4,), (4,)]),
    "attention": (lambda k, *qkv: mx.square(k.scaled_dot_product_attention(*qkv, None, True)), [(1, 2, 3, 4)] * 3),
    "scratch loss": (lambda k, x, w, b: scratch.linear_cross_entropy(x, w, b, TARGETS), [(15, D), (V, D), (V,)]),
    "dropout": (lambda k, x: dropout(x * x * x, 0.3, mx.array(3, mx.uint32), 1), [(7,)]),
}


@both
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gradient_of_a_gradient_is_its_slope(kernels: ModuleType, name: str) -> None:
    """Along one random direction, by central differences of the penalty."""
    operation, shapes = OPERATIONS[name]
    arguments = some(*shapes)
    f = penalty(lambda *a: operation(kernels, *a).sum())
    slopes = gradients(f, *arguments)
    directions = some(*(shape[::-1] for shape in shapes))
    steps = [d.reshape(a.shape) * 1e-2 for d, a in zip(directions, arguments, strict=True)]
    ends = [float(f(*(a + s * sign for a, s in zip(arguments, steps, strict=True)))) for sign in (1, -1)]
    slope = sum(float((g * s).sum()) for g, s in zip(slopes, steps, strict=True))
    size = sum(float(mx.linalg.norm(g) * mx.linalg.norm(s)) for g, s in zip(slopes, steps, strict=True))
    assert abs((ends[0] - ends[1]) / 2 - slope) < 0.02 * size


@pytest.mark.parametrize("rows", [4, 100], ids=["chunks", "whole"])
def test_the_fused_loss_refuses_it_by_name(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    f = penalty(lambda x, w, b: fused.linear_cross_entropy(x, w, b, TARGETS))
    with pytest.raises(NotImplementedError, match="kernels = scratch"):
        gradients(f, *some((15, D), (V, D), (V,)))


def test_the_loss_s_gradients_may_be_asked_for_again() -> None:
    arguments = some((15, D), (V, D), (V,))
    first, second = (gradients(lambda *a: fused.linear_cross_entropy(*a, TARGETS), *arguments) for _ in range(2))
    expected = gradients(lambda *a: scratch.linear_cross_entropy(*a, TARGETS), *arguments)
    for one, other, same in zip(first, second, expected, strict=True):
        assert mx.array_equal(one, other)
        np.testing.assert_allclose(np.array(one), np.array(same), atol=1e-6)
