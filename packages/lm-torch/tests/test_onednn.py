"""Which products go to oneDNN: the instruction set decides, not the maker of the processor."""

from typing import Any

import pytest
import torch

from lm_torch import batched_attention, fused, onednn
from lm_torch.dropout import Dropping


@pytest.mark.parametrize(
    ("capability", "pays"),
    [
        ("AVX512", True),
        ("AVX512_VNNI", True),
        ("AVX2", False),
        ("DEFAULT", False),
        ("NO AVX", False),
        ("SVE256", False),
    ],
)
def test_onednn_pays_with_avx512_alone(capability: str, pays: bool) -> None:
    assert onednn.pays(capability) == pays


def test_the_choice_is_that_of_the_vectors_which_torch_uses() -> None:
    assert not onednn.USED or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@pytest.mark.parametrize("used", [True, False])
def test_products_and_attention_go_where_the_choice_says(monkeypatch: pytest.MonkeyPatch, used: bool) -> None:
    calls: list[str] = []

    def noted(name: str, result: torch.Tensor) -> Any:
        return lambda *_: calls.append(name) or result

    x, q = torch.ones(512, 64), torch.ones(1, 1, 4, 8, dtype=torch.bfloat16)
    monkeypatch.setattr(onednn, "USED", used)
    monkeypatch.setattr(onednn, "linear", noted("product", x @ torch.ones(64, 64)))
    monkeypatch.setattr(batched_attention, "causal_attention", noted("attention", q))
    assert torch.equal(fused.linear(x, torch.ones(64, 64)), x @ torch.ones(64, 64))
    fused.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert calls == (["product", "attention"] if used else [])


def test_with_dropout_attention_is_batched_products_in_any_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "USED", False)
    q, drop = torch.ones(1, 1, 4, 8), Dropping(0.5, torch.tensor(1), 0)
    assert batched_attention.is_better(q, drop)
    assert not batched_attention.is_better(q, None)


@pytest.mark.parametrize(("n", "m"), [(5, 3), (3, 5), (4, 4)])
def test_a_product_of_a_transposed_matrix_is_the_same_from_either_side(n: int, m: int) -> None:
    a, b = torch.arange(7.0 * n).view(7, n), torch.arange(7.0 * m).view(7, m)
    product = onednn.transposed_product(a, b)
    assert torch.equal(product, a.t() @ b)
    assert product.is_contiguous()
