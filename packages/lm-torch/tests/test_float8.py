"""MLPs with products in float8: near the ones they stand for, the same bits after a resume, refused where needed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lm_core.config import StepConfig
from lm_core.errors import UserError
from lm_core.testing import ADAMW, MODELS, rough_arrays, some_batches
from lm_torch import fitting, float8, fused, scratch
from lm_torch.backend import TorchBackend
from lm_torch.float8 import E4M3, E5M2, LARGEST, product, scaled_rows
from lm_torch.step import TorchTrainer

CPU = torch.device("cpu")
CONFIG = MODELS["testbed-d"].model_copy(update={"d_model": 16, "n_heads": 2, "dropout": 0.1})


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(device, torch.bfloat16).requires_grad_()


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach().double() - theirs.detach().double()).norm() / theirs.detach().double().norm())


@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=str)
def test_rows_are_scaled_to_the_whole_range(dtype: torch.dtype) -> None:
    """Each by its own largest element, be it tiny or huge; zeros stay zeros, and what is not finite is not hidden."""
    x = draw(5, 48).detach() * torch.tensor([[1e-12], [1.0], [3e30], [0.0], [1.0]])
    x[4, 7] = torch.nan
    narrow, scale = scaled_rows(x, dtype)
    assert narrow.dtype == dtype
    assert narrow[:3].float().abs().amax(dim=1).tolist() == [LARGEST[dtype]] * 3
    assert apart(narrow[:3].float() * scale[:3] / x[:3].abs().amax(dim=1, keepdim=True), x[:3] / x[:3].abs().amax(
        dim=1, keepdim=True)) < (0.03 if dtype == E4M3 else 0.06)  # fmt: skip
    assert not narrow[3].float().any()
    assert narrow[4].float().isnan().any()


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_near_the_one_it_stands_for(bias: bool) -> None:
    """Values and the gradient of x within float8's bits, the gradients of the parameters within bfloat16's."""
    ours = [draw(2, 9, 32), draw(48, 32, seed=1), *([draw(48, seed=2)] if bias else [])]
    theirs = [t.detach().double().requires_grad_() for t in ours]
    y, expected = float8.linear(*ours), scratch.linear(*theirs)
    assert y.dtype == torch.bfloat16
    assert 1e-3 < apart(y, expected) < 0.05
    upstream = draw(2, 9, 48, seed=3).detach()
    y.backward(upstream)
    expected.backward(upstream.double())
    assert 1e-3 < apart(ours[0].grad, theirs[0].grad) < 0.08
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert apart(one.grad, other.grad) < 8e-3


def test_products_are_torch_s_own_where_this_cpu_has_them() -> None:
    a, b = scaled_rows(draw(32, 64).detach(), E4M3), scaled_rows(draw(48, 64, seed=1).detach(), E4M3)
    try:
        theirs = torch._scaled_mm(a[0], b[0].t(), a[1], b[1].t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch {torch.__version__}: {str(error).splitlines()[0]}")
    assert apart(product(*a, *b), theirs) < 4e-3


def test_a_layer_that_float8_does_not_take_stays_as_it_is() -> None:
    for sizes in ((8, 32), (32, 8)):
        x, weight = draw(3, sizes[1]), draw(*sizes, seed=1)
        assert torch.equal(float8.linear(x, weight), fused.linear(x, weight))


def test_the_gradient_of_a_gradient_is_refused() -> None:
    x = draw(2, 16)
    with pytest.raises(NotImplementedError, match="dtype = bfloat16"):
        torch.autograd.grad(float8.linear(x, draw(16, 16)).sum(), x, create_graph=True)


def trainer(dtype: str, mlp: str = "gelu", **step: Any) -> TorchTrainer:
    config = CONFIG.model_copy(update={"mlp": mlp})
    how = StepConfig.parse({"device": "cpu", "dtype": dtype, **step})
    built = TorchBackend().build(config, ADAMW, how, rough_arrays(config), 0)
    assert isinstance(built, TorchTrainer)
    return built


def take(one: TorchTrainer, first: int, last: int) -> list[float]:
    batches = some_batches(CONFIG)
    return [float(one.step(batches.batch(step), 1e-3)["loss_nats"]) for step in range(first, last + 1)]


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_float8_learns_what_bfloat16_learns(mlp: str) -> None:
    """Neither the same, which would be bfloat16, nor far from it; weights and state stay float32."""
    wide, narrow = trainer("bfloat16", mlp), trainer("float8", mlp)
    expected, losses = take(wide, 1, 4), take(narrow, 1, 4)
    assert losses != expected
    assert losses == pytest.approx(expected, abs=0.05)
    assert {a.dtype.name for a in narrow.weights().values()} == {"float32"}
    assert narrow.optimizer_state().keys() == wide.optimizer_state().keys()


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped() -> None:
    how = {"grad_accum_steps": 2, "gradient_checkpointing": True}
    whole, first, second = (trainer("float8", **how) for _ in range(3))
    expected = take(whole, 1, 4)
    losses = take(first, 1, 2)
    second.load(first.weights(), first.optimizer_state())
    assert losses + take(second, 3, 4) == expected
    theirs = whole.weights()
    assert all(array.tobytes() == theirs[name].tobytes() for name, array in second.weights().items())


def test_a_card_without_float8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    fitting.check_dtype("float8", CPU)
    with pytest.raises(UserError, match=r"NVIDIA A100 .* 8\.9 .* bfloat16"):
        fitting.check_dtype("float8", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fitting.check_dtype("float8", torch.device("cuda"))


def test_seeds_are_not_trained_together_in_float8() -> None:
    step = StepConfig(device="cpu", dtype="float8")
    with pytest.raises(UserError, match="bfloat16 or float32, not in float8"):
        TorchBackend().build_seeds(CONFIG, ADAMW, step, [rough_arrays(CONFIG)], [0])


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="no card with float8"
)
@pytest.mark.parametrize("rows", [1, 300])
def test_a_card_multiplies_as_the_cpu_widens(rows: int) -> None:
    """Values and gradients, in float8 on both."""
    found = []
    for device in ("cpu", "cuda"):
        x, weight = draw(rows, 96, device=device), draw(160, 96, seed=1, device=device)
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = float8.linear(x, weight)
        y.backward(draw(rows, 160, seed=2, device=device).detach())
        found.append([t.detach().cpu() for t in (y, x.grad, weight.grad)])
    for ours, theirs in zip(*found, strict=True):
        assert apart(theirs, ours) < 1e-2
