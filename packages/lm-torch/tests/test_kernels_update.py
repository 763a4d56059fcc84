"""The kernel of the update against the update that is spelled out: parameters, state, and narrow copies.

It runs on a CUDA device (`-m gpu`), or on a CPU by Triton's interpreter, for which test_kernels_interpreted.py starts
pytest on this file.
"""

import os

import pytest
import torch
from torch import Tensor

from lm_core.config import KBetaConfig
from lm_core.model.parameters import Parameter, Table
from lm_core.testing import OPTIMIZERS
from lm_torch import kernels
from lm_torch.clip import clip_by_global_norm
from lm_torch.kernels import update
from lm_torch.optim import Optimizer, make_optimizer

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED:
    pytestmark = pytest.mark.gpu
LONG = [pytest.mark.slow] if INTERPRETED else []
"""Marks of what takes many seconds in the interpreter."""

TABLE: Table = {
    "embed.weight": Parameter((9, 8), "normal", 1.0, "embed"),
    "blocks.0.mlp.up_proj.weight": Parameter((24, 8), "normal", 1.0, "matrix"),
    "blocks.0.mlp.up_proj.bias": Parameter((13,), "zeros", 0.0, "bias"),
    "blocks.1.mlp.up_proj.weight": Parameter((24, 8), "normal", 1.0, "matrix"),
    "norm.weight": Parameter((8,), "ones", 0.0, "norm"),
}
NARROW = [name for name in TABLE if name != "embed.weight"]


@pytest.fixture(autouse=True)
def _run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", {DEVICE})
    monkeypatch.setattr(update, "BLOCK", 128)  # several of them, the last of which is not full


def draw(seed: int, lead: tuple[int, ...]) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return {name: torch.randn((*lead, *p.shape), generator=numbers).to(DEVICE) for name, p in TABLE.items()}


def of(name: str, lead: tuple[int, ...], by_kernel: bool) -> tuple[Optimizer, dict[str, Tensor], dict[str, Tensor]]:
    params = draw(0, lead)
    config = OPTIMIZERS[name]
    if isinstance(config, KBetaConfig):  # until it has warmed up, its beta2 is the same everywhere
        config = config.model_copy(update={"warmup_steps": 1})
    optimizer = make_optimizer(config, TABLE, params, by_kernel)
    copies = {key: params[key].to(torch.bfloat16) for key in NARROW}
    optimizer.keep_narrow(copies)
    return optimizer, params, copies


@pytest.mark.parametrize(
    ("lead", "clip"),
    [
        pytest.param((), 0.0, id="one model"),
        pytest.param((2,), 5.0, id="two seeds, clipped"),
        pytest.param((), 5.0, marks=LONG, id="one model, clipped"),
        pytest.param((3,), 0.0, marks=LONG, id="three seeds"),
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_kernel_does_what_is_spelled_out(name: str, clip: float, lead: tuple[int, ...]) -> None:
    """Gradients in float32 and in bfloat16, some of them not in one piece; a rate that changes."""
    ours, ours_params, ours_copies = of(name, lead, True)
    theirs, theirs_params, _ = of(name, lead, False)
    assert getattr(ours, "rest", ours).own is not None
    assert getattr(theirs, "rest", theirs).own is None
    for step in range(1, 3):
        grads = draw(step, lead)
        given = [grads[key].to(torch.bfloat16) if key in NARROW else grads[key] for key in TABLE]
        given[1] = given[1].mT.contiguous().mT
        norm, norms, scale = clip_by_global_norm(given, clip, lead)
        assert norm.shape == lead
        for one in (ours, theirs):
            scalars = one.next_scalars(0.01 * step).to(DEVICE)
            one.apply([grad.clone() for grad in given], scalars, scale, norms)
    for key, expected in theirs_params.items():
        torch.testing.assert_close(ours_params[key], expected, rtol=1e-5, atol=1e-6, msg=key)
    for key, copy in ours_copies.items():
        rounding = 2**-7 if INTERPRETED else 0  # the interpreter cuts digits off
        torch.testing.assert_close(copy, ours_params[key].to(torch.bfloat16), rtol=rounding, atol=0, msg=key)
    expected_state = theirs.named_state()
    for key, tensor in ours.named_state().items():
        torch.testing.assert_close(tensor, expected_state[key], rtol=2e-5, atol=1e-6, msg=key)


def test_gradients_at_odd_places_are_read_as_they_are() -> None:
    """Slices of one tensor, none of which begins where 16 bytes do."""
    sizes = [torch.Size(p.shape) for p in TABLE.values()]
    every = torch.randn(1 + sum(size.numel() for size in sizes), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    pieces = every[1:].split([size.numel() for size in sizes])
    (ours, params, _), (theirs, expected, _) = of("adamw", (), True), of("adamw", (), False)
    for one in (ours, theirs):
        grads = [piece.view(size) for piece, size in zip(pieces, sizes, strict=True)]
        one.apply(grads, one.next_scalars(0.01).to(DEVICE))
    for key, tensor in expected.items():
        torch.testing.assert_close(params[key], tensor, rtol=1e-5, atol=1e-6, msg=key)
