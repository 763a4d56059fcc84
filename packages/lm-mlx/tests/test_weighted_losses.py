"""Losses with a weight for each target, and the loss of each: against MLX's own, values and gradients."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn

from lm_mlx import fused, scratch

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])
chunked = pytest.mark.parametrize("rows", [1, 4, 1000], ids=lambda rows: f"{rows} rows at a time")
V, D = 11, 6
TARGETS = np.arange(15).reshape(3, 5) * 7 % V


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def some(*shapes: tuple[int, ...]) -> list[Any]:
    draw = np.random.default_rng(0)
    return [mx.array(draw.standard_normal(shape).astype(np.float32)) for shape in shapes]


def weights_of(targets: Any) -> Any:
    """Above, below and at 0."""
    weights = np.random.default_rng(1).standard_normal(targets.shape) * (targets % 3 > 0)
    return mx.array(weights.astype(np.float32))


def own(x: Any, w: Any, b: Any = None) -> Any:
    return nn.losses.cross_entropy(x @ w.T + (0 if b is None else b), mx.array(TARGETS), reduction="none")


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-5, atol=1e-6)


@both
@chunked
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_weighted_loss_is_the_mean_of_weight_times_loss(
    kernels: ModuleType, rows: int, bias: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    arguments, weights, targets = (
        some((3, 5, D), (V, D), (V,))[: 3 if bias else 2],
        weights_of(TARGETS),
        mx.array(TARGETS),
    )

    def ours(weights: Any, targets: Any, x: Any, w: Any, b: Any = None) -> Any:
        return kernels.linear_cross_entropy(x, w, b, targets, weights) * 0.5

    def theirs(weights: Any, targets: Any, *given: Any) -> Any:
        return (own(*given) * weights).mean() * 0.5

    places = list(range(2, 2 + len(arguments)))
    f, g = (mx.value_and_grad(loss, places) for loss in (ours, theirs))
    (loss, gradients), (expected, slopes) = (
        h(weights, targets, *arguments) for h in (mx.compile(f) if compiled else f, g)
    )
    close(loss, expected)
    for one, other in zip(gradients, slopes, strict=True):
        close(one, other)
    logits = arguments[0] @ arguments[1].T + (arguments[2] if bias else 0)
    close(kernels.cross_entropy(logits, targets, weights) * 0.5, expected)


@both
@chunked
def test_the_loss_of_each_target_is_mlx_s(kernels: ModuleType, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    arguments, targets = some((3, 5, D), (V, D), (V,)), mx.array(TARGETS)
    close(kernels.linear_token_losses(*arguments, targets), own(*arguments))
    narrow = kernels.linear_token_losses(*(a.astype(mx.bfloat16) for a in arguments), targets)
    assert narrow.shape == (3, 5)
    assert narrow.dtype == mx.float32


@pytest.mark.parametrize(("kernels", "chunks"), [(scratch, 1), (fused, 1), (fused, 512)])
def test_a_weighted_loss_in_bfloat16_is_the_float32_one_s(
    kernels: ModuleType, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many chunks add up."""
    rows = 512
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows // chunks * 4 * V)
    ids = np.arange(rows) * 7 % V
    targets, weights = mx.array(ids), weights_of(ids)
    narrow = [a.astype(mx.bfloat16) for a in some((rows, D), (V, D), (V,))]
    f = mx.value_and_grad(lambda *given: kernels.linear_cross_entropy(*given, targets, weights), argnums=(0, 1, 2))
    (loss, gradients), (expected, wide) = f(*narrow), f(*(a.astype(mx.float32) for a in narrow))
    assert loss.dtype == mx.float32
    assert loss.item() == pytest.approx(expected.item(), abs=5e-3)
    for a, b in zip(gradients, wide, strict=True):
        assert a.dtype == mx.bfloat16
        one, other = np.array(a.astype(mx.float32)), np.array(b)
        assert np.linalg.norm(one - other) < 0.015 * np.linalg.norm(other)


def test_the_gradient_by_the_weights_is_the_loss_of_each_and_none_where_it_is_fused() -> None:
    arguments, weights = some((3, 5, D), (V, D), (V,)), weights_of(TARGETS)
    slopes = [
        mx.grad(lambda w, k=kernels: k.linear_cross_entropy(*arguments, mx.array(TARGETS), w))(weights)
        for kernels in (scratch, fused)
    ]
    close(slopes[0], own(*arguments) / 15)
    close(slopes[1], mx.zeros((3, 5)))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_mask_that_is_causal_besides_goes_to_the_kernel(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = some((2, 4, 7, 8), *[(2, 2 if grouped else 4, 7, 8)] * 2)
    mask = (mx.arange(7) >= mx.array([0, 3])[:, None, None, None]) | mx.eye(7).astype(mx.bool_)
    expected = scratch.scaled_dot_product_attention(q, k, v, mask, is_causal=True)

    def spelled_out(*_: Any) -> Any:
        raise AssertionError("no kernel was called")

    monkeypatch.setattr(scratch, "scaled_dot_product_attention", spelled_out)
    close(fused.scaled_dot_product_attention(q, k, v, mask, is_causal=True), expected)
