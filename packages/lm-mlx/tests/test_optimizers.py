"""The updates against MLX's own AdamW, step by step, and against the float64 reference."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.config import AdamWConfig, MuonConfig
from lm_core.model.parameters import Parameter, Table
from lm_core.reference import optim as reference

pytest.importorskip("mlx.core")

import mlx.core as mx
import mlx.optimizers

from lm_mlx.optim import make_optimizer
from lm_mlx.optim.muon import newton_schulz

TABLE: Table = {
    "embed.weight": Parameter((7, 4), "normal", 1.0, "embed"),
    "blocks.0.mlp.up_proj.weight": Parameter((24, 8), "normal", 1.0, "matrix"),
    "blocks.0.mlp.up_proj.bias": Parameter((24,), "zeros", 0.0, "bias"),
    "blocks.0.mlp.down_proj.weight": Parameter((8, 24), "normal", 1.0, "matrix"),
    "blocks.1.mlp.down_proj.weight": Parameter((8, 24), "normal", 1.0, "matrix"),
    "norm.weight": Parameter((8,), "ones", 0.0, "norm"),
}


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def draw(seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in TABLE.items()}


def on_device(arrays: dict[str, NDArray[np.float32]]) -> dict[str, mx.array]:
    return {name: mx.array(a) for name, a in arrays.items()}


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_is_mlx_s_own_at_every_step(bias_correction: bool, weight_decay: float) -> None:
    """MLX decays every parameter, so all groups are named here."""
    config = AdamWConfig(
        beta1=0.8,
        beta2=0.95,
        eps=1e-6,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        decay_groups=("matrix", "embed", "bias", "norm"),
    )
    optimizer = make_optimizer(config, TABLE)
    expected = mlx.optimizers.AdamW(
        0.01, betas=[0.8, 0.95], eps=1e-6, weight_decay=weight_decay, bias_correction=bias_correction
    )
    ours, theirs = on_device(draw(0)), on_device(draw(0))
    for step in range(1, 11):
        grads, lr = on_device(draw(step)), 0.01 * step
        expected.learning_rate = lr
        theirs = expected.apply_gradients(grads, theirs)
        ours = optimizer.update(ours, grads, optimizer.scalars(lr))
        for name, p in ours.items():
            np.testing.assert_allclose(
                np.array(p), np.array(theirs[name]), rtol=1e-5, atol=1e-6, err_msg=f"{name}, step {step}"
            )


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8), (3, 8, 24)], ids=str)
def test_newton_schulz_brings_singular_values_near_1_and_is_the_reference(shape: tuple[int, ...]) -> None:
    matrices = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = np.array(newton_schulz(mx.array(matrices), 5))
    values = np.linalg.svd(y, compute_uv=False)
    assert y.shape == shape
    assert 0.6 < values.min() <= values.max() < 1.3
    for one, given in zip(y.reshape(-1, *shape[-2:]), matrices.reshape(-1, *shape[-2:]), strict=True):
        np.testing.assert_allclose(one, reference.newton_schulz(given.astype(np.float64), 5), atol=1e-4)


def test_newton_schulz_keeps_the_directions_of_an_orthogonal_matrix_and_zero() -> None:
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    y = np.array(newton_schulz(mx.array(3 * q), 5))
    size = (y * q).sum() / 8
    assert 0.6 < size < 1.3
    np.testing.assert_allclose(y, size * q, rtol=1e-4, atol=1e-5)
    assert not np.array(newton_schulz(mx.zeros((4, 6)), 5)).any()


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_the_reference_at_every_step(scale: Any, nesterov: bool) -> None:
    """Two shapes of matrices, one of them twice, and parameters that take AdamW's step."""
    config = MuonConfig(momentum=0.9, nesterov=nesterov, scale=scale, lr_factor=2.0, weight_decay=0.3)
    optimizer, oracle = make_optimizer(config, TABLE), reference.Muon(config, TABLE)
    ours, expected = on_device(draw(0)), {name: a.astype(np.float64) for name, a in draw(0).items()}
    for step in range(1, 6):
        ours = optimizer.update(ours, on_device(draw(step)), optimizer.scalars(0.01 * step))
        expected = oracle.update(expected, draw(step), 0.01 * step)
        assert list(ours) == list(TABLE)
        for name, p in ours.items():
            np.testing.assert_allclose(np.array(p), expected[name], rtol=2e-5, atol=2e-5, err_msg=f"{name}, {step}")
