"""Losses with a weight for each target, and the loss of each: against torch's own, values and gradients."""

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_torch import fused, scratch

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])
chunked = pytest.mark.parametrize("rows", [1, 4, 1000], ids=lambda rows: f"{rows} rows at a time")
V, D = 11, 6
TARGETS = torch.arange(15).view(3, 5) * 7 % V


def some(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def weights_of(targets: Tensor) -> Tensor:
    """Above, below and at 0."""
    return torch.randn(targets.shape, generator=torch.Generator().manual_seed(1)) * (targets % 3 > 0)


def own(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return F.cross_entropy(F.linear(x, w, b).view(-1, V), TARGETS.view(-1), reduction="none").view(3, 5)


@both
@chunked
@pytest.mark.parametrize("bias", [True, False])
def test_a_weighted_loss_is_the_mean_of_weight_times_loss(
    kernels: ModuleType, rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    arguments, weights = some((3, 5, D), (V, D), (V,))[: 3 if bias else 2], weights_of(TARGETS)
    given = arguments if bias else [*arguments, None]
    ours = kernels.linear_cross_entropy(*given, TARGETS, weights) * 0.5
    theirs = (own(*arguments) * weights).mean() * 0.5
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(loss, arguments) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)
    logits = F.linear(*given)
    torch.testing.assert_close(kernels.cross_entropy(logits, TARGETS, weights), theirs * 2)
    with torch.no_grad():
        assert kernels.linear_cross_entropy(*given, TARGETS, weights) == ours * 2


@both
@chunked
def test_the_loss_of_each_target_is_torch_s(kernels: ModuleType, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    arguments = some((3, 5, D), (V, D), (V,))
    ours, theirs = kernels.linear_token_losses(*arguments, TARGETS), own(*arguments)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(kernels.token_losses(F.linear(*arguments), TARGETS), theirs)
    upstream = weights_of(TARGETS)
    for one, other in zip(*(torch.autograd.grad(y, arguments, upstream) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)
    assert kernels.linear_token_losses(
        arguments[0].bfloat16(), *(a.bfloat16() for a in arguments[1:]), TARGETS
    ).dtype == (torch.float32)


@pytest.mark.parametrize(("kernels", "chunks"), [(scratch, 1), (fused, 1), (fused, 512)])
def test_a_weighted_loss_in_bfloat16_is_the_float32_one_s(
    kernels: ModuleType, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many chunks add up."""
    rows = 512
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows // chunks * 4 * V)
    targets = torch.arange(rows) * 7 % V
    weights = weights_of(targets)
    narrow = [a.detach().bfloat16().requires_grad_() for a in some((rows, D), (V, D), (V,))]
    wide = [a.detach().float().requires_grad_() for a in narrow]
    loss, expected = (kernels.linear_cross_entropy(*arguments, targets, weights) for arguments in (narrow, wide))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), abs=5e-3)
    loss.backward()
    expected.backward()
    for a, b in zip(narrow, wide, strict=True):
        assert a.grad.dtype == torch.bfloat16
        assert (a.grad.float() - b.grad).norm() < 0.015 * b.grad.norm()


def test_the_gradient_by_the_weights_is_the_loss_of_each_or_refused_by_name() -> None:
    arguments, weights = some((3, 5, D), (V, D), (V,)), weights_of(TARGETS).requires_grad_()
    [slopes] = torch.autograd.grad(scratch.linear_cross_entropy(*arguments, TARGETS, weights), [weights])
    torch.testing.assert_close(slopes, own(*arguments) / 15)
    with pytest.raises(NotImplementedError, match=r"detach them, or use kernels = scratch"):
        fused.linear_cross_entropy(*arguments, TARGETS, weights)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_mask_that_is_causal_besides_goes_to_the_kernel(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = some((2, 4, 7, 8), *[(2, 2 if grouped else 4, 7, 8)] * 2)
    mask = torch.arange(7) >= torch.tensor([0, 3])[:, None, None, None]
    mask = mask | torch.eye(7, dtype=torch.bool)
    expected = scratch.scaled_dot_product_attention(q, k, v, mask, is_causal=True)

    def spelled_out(*_: Any) -> Tensor:
        raise AssertionError("no kernel was called")

    monkeypatch.setattr(scratch, "scaled_dot_product_attention", spelled_out)
    torch.testing.assert_close(fused.scaled_dot_product_attention(q, k, v, mask, is_causal=True), expected)
