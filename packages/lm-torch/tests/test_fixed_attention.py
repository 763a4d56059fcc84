"""Attention of a fixed order, one pass by cuDNN and one by flash attention: on a CPU torch's own stand in for both."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lm_core.config import StepConfig
from lm_torch import fixed_attention, fused, scratch
from lm_torch.numerics import Numerics


def draw(seed: int, device: str, dtype: torch.dtype) -> Tensor:
    """[B, N, T, H] as a part of what a projection gives."""
    numbers = torch.Generator().manual_seed(seed)
    whole = torch.randn(2, 70, 3 * 2 * 16, generator=numbers).to(device, dtype)
    return whole.view(2, 70, 6, 16).transpose(1, 2)[:, :2].detach().requires_grad_()


def checked(device: str, dtype: torch.dtype, error: float) -> list[Tensor]:
    """Value and gradients, against the ones spelled out in float64."""
    ours = [draw(seed, device, dtype) for seed in range(3)]
    theirs = [t.detach().double().requires_grad_() for t in ours]
    y = fixed_attention.attention(*ours)
    expected = scratch.scaled_dot_product_attention(*theirs, is_causal=True)
    upstream = torch.randn(2, 70, 2, 16, generator=torch.Generator().manual_seed(9)).to(device, dtype).transpose(1, 2)
    found = [y, *torch.autograd.grad(y, ours, upstream)]
    oracle = [expected, *torch.autograd.grad(expected, theirs, upstream.double())]
    for one, other in zip(found, oracle, strict=True):
        assert (one.detach().double() - other.detach()).norm() <= error * other.detach().norm()
    return [t.detach() for t in found]


def test_the_two_passes_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's flash attention for a CPU in place of both."""
    aten = torch.ops.aten
    forward, backward = (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )

    def by_cudnn(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Any, ...]:
        assert rest == (None, True, 0.0, True, False)
        y, sums = forward(q, k, v, 0.0, True)
        return y, sums.unsqueeze(-1), None  # as cuDNN has them

    def by_flash(*given: Any) -> tuple[Tensor, ...]:
        return backward(*given[:6], 0.0, True)

    monkeypatch.setattr(fixed_attention, "BY_CUDNN", by_cudnn)
    monkeypatch.setattr(fixed_attention, "BY_FLASH", by_flash)
    checked("cpu", torch.float32, 1e-5)


def test_it_is_taken_on_a_card_with_deterministic_algorithms_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_attention, "USED", True)
    taken = []
    monkeypatch.setattr(fixed_attention, "attention", lambda *tensors: taken.append(tensors) or tensors[2])
    q, k, v = (draw(seed, "cpu", torch.float32) for seed in range(3))
    fused.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert not taken


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_properties(0).major < 9, reason="no Hopper")
def test_a_card_repeats_the_oracle_s_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_attention, "USED", True)
    q = draw(0, "cuda", torch.bfloat16)
    assert not fixed_attention.usable(q, q)
    with Numerics(StepConfig(deterministic=True), q.device)():
        assert fixed_attention.usable(q, q)
        found = [checked("cuda", torch.bfloat16, 1e-2) for _ in range(3)]
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))
