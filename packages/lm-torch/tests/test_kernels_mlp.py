"""An MLP whose GELU is done by the products beside it, against the one that is spelled out, in values and gradients.

It runs on a CUDA device (`-m gpu`), or on a CPU by Triton's interpreter, for which test_kernels_interpreted.py starts
pytest on this file. There the tiles are small, so that small products have several of them.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_core.config import StepConfig
from lm_torch import fused, kernels, scratch
from lm_torch.kernels import fastest, gelu_product
from lm_torch.kernels.gelu_product import Tiles
from lm_torch.numerics import Numerics

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED:
    pytestmark = pytest.mark.gpu

ERROR = 8e-3
"""Of a whole tensor, relative to its norm, in bfloat16; float64 is the oracle."""


@pytest.fixture(autouse=True)
def _run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", {DEVICE})
    monkeypatch.setattr(gelu_product, "LEAST", 0)
    if INTERPRETED:
        small = Tiles(32, 16, 16, 4, 3, 1, 2), Tiles(16, 64, 32, 4, 3, 2, 1)
        monkeypatch.setattr(gelu_product, "FORWARD", small)
        monkeypatch.setattr(gelu_product, "BACKWARD", (small[0], small[1]._replace(parts=4)))
        monkeypatch.setattr(gelu_product, "FIXED", (None, None))


def take(monkeypatch: pytest.MonkeyPatch, place: int) -> list[str]:
    """Have the way at a place taken, untimed; the names of those that were."""
    taken: list[str] = []

    def chosen(what: str, key: Any, ways: Mapping[str, Callable[[], Any]], fixed: str | None) -> Any:
        taken.append(list(ways)[place])
        return ways[taken[-1]]()

    monkeypatch.setattr(gelu_product, "by_the_fastest", chosen)
    return taken


def draw(*shape: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return torch.from_numpy(values).to(DEVICE, torch.bfloat16).requires_grad_()


def weights(D: int, F: int, bias: bool) -> list[Tensor | None]:
    up, down = draw(F, D), draw(D, F)
    with torch.no_grad():  # so that GELU sees what it sees in a model
        up.mul_(D**-0.5)
        down.mul_(F**-0.5)
    return [up, draw(F, seed=1) if bias else None, down, draw(D, seed=2) if bias else None]


def check(ours: Tensor, oracle: Tensor, error: float) -> None:
    assert ours.dtype == torch.bfloat16
    assert ours.shape == oracle.shape
    assert float((ours.detach().double() - oracle.detach()).norm()) <= error * float(oracle.detach().norm())


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 8, 16), (2, 23, 24, 72)] + [(3, 777, 96, 520)] * (not INTERPRETED), ids=str)
def test_an_mlp_is_its_scratch_twin(
    shape: tuple[int, ...], bias: bool, tanh: bool, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every way, with rows, columns and depth that fill no tile."""
    taken = take(monkeypatch, place)
    B, T, D, F = shape
    tensors = [draw(B, T, D), *weights(D, F, bias)]
    wide = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    y, expected = fused.gelu_mlp(*tensors, tanh), scratch.gelu_mlp(*wide, tanh)
    check(y, expected, ERROR)
    upstream = draw(B, T, D, seed=9).detach()
    y.backward(upstream)
    expected.backward(upstream.double())
    assert len(taken) == 2
    for ours, theirs in zip(tensors, wide, strict=True):
        if ours is not None:
            check(ours.grad, theirs.grad, 2 * ERROR)


def test_an_mlp_that_is_small_or_in_another_type_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, parts = take(monkeypatch, 0), weights(8, 16, True)
    x = draw(1, 2, 8)
    fused.gelu_mlp(x, *parts, True)
    assert len(taken) == 1
    narrow = weights(8, 12, True)  # rows of 24 bytes, which no descriptor takes
    fused.gelu_mlp(x, *narrow, True)
    fused.gelu_mlp(x.float(), *(part.float() for part in parts), True)
    monkeypatch.setattr(gelu_product, "LEAST", 1e9)
    fused.gelu_mlp(x, *parts, True)
    assert len(taken) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.11's compiler
def test_a_compiled_mlp_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 1)
    found = []
    for compiled in (False, True):
        tensors = [draw(2, 5, 16), *weights(16, 32, True)]
        whole = torch.compile(fused.gelu_mlp, backend="aot_eager", fullgraph=True) if compiled else fused.gelu_mlp
        y = whole(*tensors, True)
        y.square().sum().backward()
        found.append([y.detach(), *(t.grad for t in tensors)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)


def test_operators_keep_what_torch_s_compiler_expects_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 1)
    kept = ("test_schema", "test_faketensor")
    x = draw(5, 16).detach()
    up, bias, down, down_bias = (part.detach() for part in weights(16, 32, True))
    torch.library.opcheck(torch.ops.lm_torch.gelu_mlp.default, (x, up, bias, down, down_bias, True), test_utils=kept)
    arguments = (x, down, draw(5, 32).detach(), bias, True)
    torch.library.opcheck(torch.ops.lm_torch.product_gelu_backward.default, arguments, test_utils=kept)


def test_a_second_derivative_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 0)
    x = draw(1, 2, 8)
    with pytest.raises(NotImplementedError, match="kernels = scratch"):
        torch.autograd.grad(fused.gelu_mlp(x, *weights(8, 16, False), True).sum(), x, create_graph=True)


def test_a_fixed_order_has_tiles_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and back, untimed."""
    monkeypatch.setattr(gelu_product, "FIXED", (gelu_product.FORWARD[1], None))
    launched = []
    launch = gelu_product._launch
    monkeypatch.setattr(gelu_product, "_launch", lambda *given: launched.append(given[-1]) or launch(*given))
    with Numerics(StepConfig(deterministic=True), torch.device(DEVICE))():
        fused.gelu_mlp(draw(1, 5, 16), *weights(16, 32, True), True).sum().backward()
    assert launched == [gelu_product.FORWARD[1]]


@pytest.mark.skipif(INTERPRETED, reason="numpy adds in one order, and has no clock to time a card by")
def test_a_real_choice_is_made_and_repeats_its_bits(capsys: pytest.CaptureFixture[str]) -> None:
    fastest._found.clear()
    found = []
    for _ in range(3):
        tensors = [draw(8, 1024, 768), *weights(768, 3072, True)]
        y = fused.gelu_mlp(*tensors, True)
        y.backward(draw(8, 1024, 768, seed=3).detach())
        found.append([y.detach(), *(t.grad for t in tensors)])
    assert len(fastest._found) == 2
    assert "does not work" not in capsys.readouterr().err
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))
