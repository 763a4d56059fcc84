"""Which products go to oneDNN: what was measured, or else the instruction set, not the maker of the processor."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lm_core.config import SamplingConfig, StepConfig
from lm_core.testing import MODELS, rough_arrays
from lm_torch import batched_attention, bfloat16, fused, onednn
from lm_torch.backend import TorchBackend
from lm_torch.dropout import Dropping
from lm_torch.onednn import KINDS, NONE, Kind, Kinds

ALL: Kinds = frozenset(KINDS)
needs_onednn = pytest.mark.skipif(not onednn.AVAILABLE, reason="no product goes to oneDNN here")


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT", "NO AVX", "SVE256"])
def test_unmeasured_products_of_a_step_stay_torch_s_without_avx512(capability: str) -> None:
    assert onednn.by_default(capability) - {"one row"} == NONE


@needs_onednn
def test_one_row_unmeasured_is_onednn_s_with_avx2_too() -> None:
    assert onednn.by_default("AVX2") == {"one row"}
    assert onednn.by_default("DEFAULT") == NONE


@needs_onednn
@pytest.mark.parametrize("capability", ["AVX512", "AVX512_VNNI"])
def test_unmeasured_products_are_onednn_s_with_avx512_but_for_those_that_copy(capability: str) -> None:
    assert onednn.by_default(capability) == ALL - {"weight gradient"}


@needs_onednn
@pytest.mark.parametrize(
    "kinds", [NONE, *(frozenset([kind]) for kind in KINDS), ALL], ids=lambda kinds: "+".join(sorted(kinds))
)
def test_each_kind_goes_where_the_choice_says(monkeypatch: pytest.MonkeyPatch, kinds: Kinds) -> None:
    """And gives what torch's own operation gives."""
    calls: list[tuple[int, ...]] = []
    exact = onednn._product

    def noted(x: Any, *rest: Any) -> Any:
        calls.append((*x.shape, len(rest[0])))
        return exact(x, *rest)

    monkeypatch.setattr(onednn, "_product", noted)
    torch.manual_seed(0)
    x, weight, dy = (
        torch.randn(512, 48, requires_grad=True),
        torch.randn(32, 48, requires_grad=True),
        torch.randn(512, 32),
    )
    with onednn.using(kinds):
        y = fused.linear(x, weight)
        dx, dweight = torch.autograd.grad(y, (x, weight), dy)
        with torch.no_grad():
            fused.linear(torch.ones(1, 2048), torch.ones(1024, 2048))
    expected: dict[Kind, tuple[int, ...]] = {
        "forward": (512, 48, 32),
        "input gradient": (512, 32, 48),
        "weight gradient": (32, 512, 48),
        "one row": (1, 2048, 1024),
    }
    assert calls == [expected[kind] for kind in KINDS if kind in kinds]
    theirs = F.linear(x, weight)
    for ours, right in zip((y, dx, dweight), (theirs, *torch.autograd.grad(theirs, (x, weight), dy)), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-4)


def test_a_choice_holds_within_its_context() -> None:
    before = onednn.chosen()
    with onednn.using(frozenset(["one row"])):
        assert onednn.chosen() == {"one row"}
    with pytest.raises(ZeroDivisionError), onednn.using(frozenset(["one row"])):
        raise ZeroDivisionError
    assert onednn.chosen() == before


@pytest.mark.parametrize("multiplied", [True, False])
def test_attention_in_bfloat16_is_batched_products_where_those_are_fast(
    monkeypatch: pytest.MonkeyPatch, multiplied: bool
) -> None:
    monkeypatch.setattr(bfloat16, "MULTIPLIED", multiplied)
    assert batched_attention.is_better(torch.ones(1, 1, 4, 8, dtype=torch.bfloat16), None) == multiplied


def test_with_dropout_attention_is_batched_products_in_any_type() -> None:
    q, drop = torch.ones(1, 1, 4, 8), Dropping(0.5, torch.tensor(1), 0)
    assert batched_attention.is_better(q, drop)
    assert not batched_attention.is_better(q, None)


@needs_onednn
@pytest.mark.parametrize(("rows", "n", "m"), [(7, 5, 3), (7, 3, 5), (7, 4, 4), (2, 5, 3), (9, 40, 3)])
def test_a_product_of_a_transposed_matrix_is_the_same_from_either_side(rows: int, n: int, m: int) -> None:
    a, b = torch.arange(float(rows * n)).view(rows, n), torch.arange(float(rows * m)).view(rows, m)
    product = onednn.transposed_product(a, b)
    assert torch.equal(product, a.t() @ b)
    assert product.is_contiguous()


def test_one_row_is_decoded_in_bfloat16_by_torch_s_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """And several rows, and prompts, are oneDNN's where torch gives them to it; the setting is put back."""
    model = TorchBackend().decoder(
        MODELS["bare"], StepConfig(device="cpu", dtype="bfloat16"), rough_arrays(MODELS["bare"]), 2
    )
    seen: list[tuple[int, bool]] = []
    exact = model.model.logits

    def noted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((len(ids), torch._C._get_mkldnn_enabled()))
        return exact(ids, *rest)

    monkeypatch.setattr(model.model, "logits", noted)
    for row in (0, 1):
        model.prefill(row, [1, 2])
    model.next_ids([[0.0, 0.0]], SamplingConfig(temperature=0))
    model.keep([0])
    model.next_ids([[0.0]], SamplingConfig(temperature=0))
    assert seen == [(1, True), (1, True), (2, True), (1, False)]
    assert torch._C._get_mkldnn_enabled()
