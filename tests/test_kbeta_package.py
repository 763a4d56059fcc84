"""Kourkoutas-beta in torch against its author's package and against the float64 reference, on the same gradients."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lm_core.config import KBetaConfig
from lm_core.model.parameters import Parameter, Table
from lm_core.reference.optim import KBeta as Reference
from lm_core.rng import generator
from lm_torch.optim.kbeta import KBeta as TorchKBeta

mx = pytest.importorskip("mlx.core")
from lm_mlx.optim.kbeta import KBeta as MlxKBeta  # noqa: E402

Arrays = dict[str, NDArray[Any]]
TABLE: Table = {
    "a": Parameter((5, 7), "normal", 1.0, "matrix"),
    "b": Parameter((7,), "zeros", 0.0, "bias"),
    "c": Parameter((5, 7), "normal", 1.0, "matrix"),
}
STEPS, LR = 200, 1e-2
BASE = {"beta2_min": 0.88, "alpha": 0.93, "tiny_spike": 1e-9, "warmup_steps": 20}
MODES: list[dict[str, Any]] = [
    {"bias_correction": correction, "buckets": buckets, **extra}
    for correction, buckets, extra in product(
        ["none", "beta2max", "exact"],
        ["global", "shape", "per-array"],
        [{}, {"decay": 0.98}, {"decay": 1.0}, {"max_ratio": 0.7}, {"adaptive_tiny": True, "tiny_denom": 1e-2}],
    )
] + [
    {"bias_correction": "beta2max", "decay": 0.9, "max_ratio": 3.0, "adaptive_tiny": True, "weight_decay": 0.1},
    {"bias_correction": "none"} | {"warmup_steps": 0},
]


def start() -> Arrays:
    return {name: generator(0, name).standard_normal(p.shape).astype(np.float32) for name, p in TABLE.items()}


def gradients(step: int) -> Arrays:
    """Gradients whose size jumps now and then, so that the sunspike has something to see."""
    size = 10.0 if step % 17 == 0 else 0.1
    return {
        name: (size * generator(step, "g", name).standard_normal(p.shape)).astype(np.float32)
        for name, p in TABLE.items()
    }


def run_torch(config: KBetaConfig) -> Arrays:
    params = {name: torch.from_numpy(array) for name, array in start().items()}
    optimizer = TorchKBeta(config, TABLE, params)
    for step in range(1, STEPS + 1):
        optimizer.step([torch.from_numpy(g) for g in gradients(step).values()], LR)
    return {name: p.numpy() for name, p in params.items()}


def run_package(config: KBetaConfig) -> Arrays:
    params = {name: mx.array(array) for name, array in start().items()}
    optimizer = MlxKBeta(config, TABLE)
    for step in range(1, STEPS + 1):
        grads = {name: mx.array(g) for name, g in gradients(step).items()}
        params = optimizer.update(params, grads, optimizer.scalars(LR))
        mx.eval(params, optimizer.state)
    return {name: np.array(p) for name, p in params.items()}


def run_reference(config: KBetaConfig) -> Arrays:
    params = {name: array.astype(np.float64) for name, array in start().items()}
    optimizer = Reference(config, TABLE)
    for step in range(1, STEPS + 1):
        params = optimizer.update(params, gradients(step), LR)
    return params


def difference(ours: Arrays, theirs: Arrays) -> float:
    return max(float(np.linalg.norm(ours[k] - theirs[k]) / np.linalg.norm(theirs[k])) for k in TABLE)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(f"{k}={v}" for k, v in mode.items()))
def test_torch_package_and_reference_agree_within_1e_5_after_200_steps(mode: dict[str, Any]) -> None:
    config = KBetaConfig.parse(BASE | mode)
    ours, package, reference = run_torch(config), run_package(config), run_reference(config)
    assert difference(reference, start()) > 1e-2, "the parameters hardly moved"
    assert difference(ours, package) < 1e-5
    assert difference(ours, reference) < 1e-5
    assert difference(package, reference) < 1e-5
