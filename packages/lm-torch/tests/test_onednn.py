"""Which products go to oneDNN: the instruction set decides, not the maker of the processor."""

from typing import Any

import pytest
import torch

from lm_torch import fused, onednn


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
    monkeypatch.setattr(onednn, "causal_attention", noted("attention", q))
    assert torch.equal(fused.linear(x, torch.ones(64, 64)), x @ torch.ones(64, 64))
    fused.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert calls == (["product", "attention"] if used else [])
