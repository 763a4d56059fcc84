"""bfloat16 on a CPU that does not multiply in it: in float32, rounded where it would be, and reported."""

import pytest
import torch
from torch import Tensor

from lm_core.config import StepConfig
from lm_core.testing import ADAMW, MODELS, rough_arrays, some_batches
from lm_torch import backend, bfloat16, fused, scratch
from lm_torch.step import TorchTrainer

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "by_onednn", "converts", "multiplied"),
    [
        ("AVX512", True, False, True),
        ("AVX512_BF16", True, False, True),
        ("AVX512", False, False, False),
        ("AVX2", True, False, False),
        ("AVX2", True, True, True),
        ("DEFAULT", True, False, False),
        ("SVE256", True, False, True),
    ],
)
def test_the_processor_s_capabilities_decide(
    capability: str, by_onednn: bool, converts: bool, multiplied: bool
) -> None:
    assert bfloat16.is_multiplied(capability, by_onednn=by_onednn, converts=converts) == multiplied


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that does not multiply in bfloat16."""
    monkeypatch.setattr(bfloat16, "MULTIPLIED", False)


@pytest.mark.usefixtures("without")
def test_a_product_is_that_of_float32_rounded_once() -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape).bfloat16() for shape in ((3, 5, 16), (8, 16), (8,)))
    y = fused.linear(x, weight, bias)
    assert torch.equal(y, scratch.linear(x.double(), weight.double(), bias.double()).float().bfloat16())


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_step_is_what_it_is_elsewhere(monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    """Every product of it is made in float32, and gradients are those of float32 as closely as bfloat16's own are."""
    model = MODELS["testbed-d"].model_copy(update={"dropout": dropout})
    batch, linear, seen = some_batches(model).batch(1), torch.nn.functional.linear, set[torch.dtype]()

    def noted(x: Tensor, *rest: Tensor) -> Tensor:
        seen.add(x.dtype)
        return linear(x, *rest)

    def gradients(dtype: str) -> Tensor:
        step = StepConfig.parse({"device": "cpu", "dtype": dtype})
        named = TorchTrainer(model, ADAMW, step, rough_arrays(model), 0, CPU).gradients(batch)[1]
        return torch.cat([torch.from_numpy(array).flatten() for array in named.values()])

    exact = gradients("float32")
    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    wide = gradients("bfloat16")
    assert seen == {torch.float32}
    monkeypatch.setattr(bfloat16, "MULTIPLIED", True)
    narrow = gradients("bfloat16")
    assert (wide - exact).norm() <= 1.1 * (narrow - exact).norm()
    assert (narrow - exact).norm() < 0.05 * exact.norm()


@pytest.mark.usefixtures("without")
def test_one_line_says_so_with_what_to_use_instead() -> None:
    line = backend.TorchBackend().describe(StepConfig(device="cpu", dtype="bfloat16"))
    assert "does not multiply in bfloat16" in line
    assert line.endswith("use dtype float32")
    assert "\n" not in line
    assert "bfloat16" not in backend.TorchBackend().describe(StepConfig(device="cpu"))
