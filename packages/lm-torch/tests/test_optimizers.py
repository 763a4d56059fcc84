"""The updates against torch's own optimizers, step by step."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_core.config import AdamWConfig, MuonConfig
from lm_core.model.parameters import Parameter, Table
from lm_core.reference import optim as reference
from lm_torch.optim import make_optimizer
from lm_torch.optim.muon import newton_schulz

TABLE: Table = {
    "embed.weight": Parameter((7, 4), "normal", 1.0, "embed"),
    "blocks.0.mlp.up_proj.weight": Parameter((24, 8), "normal", 1.0, "matrix"),
    "blocks.0.mlp.up_proj.bias": Parameter((24,), "zeros", 0.0, "bias"),
    "blocks.0.mlp.down_proj.weight": Parameter((8, 24), "normal", 1.0, "matrix"),
    "blocks.1.mlp.down_proj.weight": Parameter((8, 24), "normal", 1.0, "matrix"),
    "norm.weight": Parameter((8,), "ones", 0.0, "norm"),
}
MATRICES = [name for name, p in TABLE.items() if p.group == "matrix"]


def draw(seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32)) for name, p in TABLE.items()}


def groups(params: dict[str, Tensor], weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for name, p in params.items() if TABLE[name].group == "matrix"]
    others = [p for name, p in params.items() if TABLE[name].group != "matrix"]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "spelled"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_is_torch_s_own_at_every_step(fused: bool, weight_decay: float) -> None:
    config = AdamWConfig(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=weight_decay)
    ours, theirs = draw(0), draw(0)
    optimizer = make_optimizer(config, TABLE, ours, fused)
    expected = torch.optim.AdamW(groups(theirs, weight_decay), betas=(0.8, 0.95), eps=1e-6)
    for step in range(1, 11):
        grads, lr = draw(step), 0.01 * step
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        for group in expected.param_groups:
            group["lr"] = lr
        expected.step()
        optimizer.step([grads[name] for name in TABLE], lr)
        for name, p in ours.items():
            torch.testing.assert_close(p, theirs[name], rtol=1e-5, atol=1e-6, msg=f"{name}, step {step}")


@pytest.mark.parametrize("bias_correction", [True, False])
def test_fused_adamw_is_the_spelled_one(bias_correction: bool) -> None:
    config = AdamWConfig(bias_correction=bias_correction, weight_decay=0.1, decay_groups=("embed", "bias"))
    params = [draw(0), draw(0)]
    optimizers = [make_optimizer(config, TABLE, p, fused) for p, fused in zip(params, (True, False), strict=True)]
    for step in range(1, 6):
        for optimizer in optimizers:
            optimizer.step([draw(step)[name] for name in TABLE], 0.01)
    for name in TABLE:
        torch.testing.assert_close(params[0][name], params[1][name], rtol=1e-5, atol=1e-6, msg=name)
    one, other = (optimizer.named_state() for optimizer in optimizers)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8), (3, 8, 24)], ids=str)
def test_newton_schulz_brings_singular_values_near_1_and_is_the_reference(shape: tuple[int, ...]) -> None:
    matrices = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    y = newton_schulz(matrices, 5)
    values = torch.linalg.svdvals(y)
    assert y.shape == shape
    assert 0.6 < values.min() <= values.max() < 1.3
    for one, given in zip(y.reshape(-1, *shape[-2:]), matrices.reshape(-1, *shape[-2:]), strict=True):
        np.testing.assert_allclose(one, reference.newton_schulz(given.numpy().astype(np.float64), 5), atol=1e-4)


def test_newton_schulz_keeps_the_directions_of_an_orthogonal_matrix_and_zero() -> None:
    q = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((8, 8))).float()).Q
    y = newton_schulz(3.0 * q, 5)
    size = (y * q).sum() / 8
    assert 0.6 < size < 1.3
    torch.testing.assert_close(y, size * q, rtol=1e-4, atol=1e-5)
    assert not newton_schulz(torch.zeros(4, 6), 5).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torch_s_own_at_every_step(scale: Any, nesterov: bool) -> None:
    """torch iterates in bfloat16, whose rounding of 2^-9 grows to some 2 % of an update in five steps: 4 % is allowed.

    The other parameters take AdamW's step, at another rate.
    """
    config = MuonConfig(momentum=0.9, nesterov=nesterov, scale=scale, lr_factor=2.0, weight_decay=0.3)
    ours, theirs = draw(0), draw(0)
    optimizer = make_optimizer(config, TABLE, ours)
    expected = torch.optim.Muon(
        [theirs[name] for name in MATRICES],
        weight_decay=0.3,
        momentum=0.9,
        nesterov=nesterov,
        adjust_lr_fn=scale,
    )
    rest = torch.optim.AdamW([p for name, p in theirs.items() if name not in MATRICES], weight_decay=0.0)
    for step in range(1, 6):
        grads, lr = draw(step), 0.01 * step
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        expected.param_groups[0]["lr"], rest.param_groups[0]["lr"] = 2.0 * lr, lr
        before = {name: p.clone() for name, p in theirs.items()}
        expected.step()
        rest.step()
        optimizer.step([grads[name] for name in TABLE], lr)
        for name, p in ours.items():
            moved = (theirs[name] - before[name]).norm()
            tolerance = 0.04 if name in MATRICES else 1e-5
            assert (p - theirs[name]).norm() < tolerance * moved, f"{name}, step {step}"
            with torch.no_grad():
                p.copy_(theirs[name])
