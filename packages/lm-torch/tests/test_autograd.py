"""Graphs that are retained, and gradients of gradients: right, or refused by name. Never a constant without a word."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_core.testing import MODELS
from lm_torch import fused, onednn, scratch
from lm_torch.batched_attention import causal_attention
from lm_torch.dropout import Dropping, dropout
from lm_torch.model import LanguageModel

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])
V, D = 11, 6
TARGETS = torch.arange(15) % V


def some(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def loss_of(kernels: ModuleType, arguments: list[Tensor]) -> Tensor:
    loss: Tensor = kernels.linear_cross_entropy(*arguments, TARGETS)
    return loss


@both
@pytest.mark.parametrize("rows", [4, 100], ids=["chunks", "whole"])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_retained_graph_gives_the_same_gradients_again(
    kernels: ModuleType, rows: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    arguments = some((15, D), (V, D), (V,))
    loss = loss_of(kernels, arguments) * factor
    for _ in range(3):
        loss.backward(retain_graph=True)
    expected = torch.autograd.grad(loss_of(scratch, arguments) * factor, arguments)
    for argument, gradient in zip(arguments, expected, strict=True):
        torch.testing.assert_close(argument.grad, 3 * gradient)


def test_a_gradient_that_was_given_out_is_not_written_to_by_a_second_pass() -> None:
    arguments = some((15, D), (V, D), (V,))
    loss = loss_of(fused, arguments)
    first = torch.autograd.grad(loss, arguments, retain_graph=True)
    for gradient in first:
        gradient.zero_()
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, arguments))


def test_the_fused_loss_refuses_what_it_cannot_do_by_name() -> None:
    arguments = some((15, D), (V, D), (V,))
    with pytest.raises(NotImplementedError, match=r"create_graph.*kernels = scratch"):
        torch.autograd.grad(loss_of(fused, arguments), arguments, create_graph=True)
    loss = loss_of(fused, arguments)
    loss.backward()
    with pytest.raises(RuntimeError, match=r"second backward through the fused loss.*retain_graph=True"):
        loss.backward()


def test_the_gradient_of_a_gradient_is_right_where_it_is_given() -> None:
    arguments = some((15, D), (V, D), (V,), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda *a: loss_of(scratch, list(a)), arguments)


OPERATIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda k, x, w, b: k.linear(x, w, b), [(3, 4), (5, 4), (5,)]),
    "softmax": (lambda k, x: k.softmax(x), [(3, 5)]),
    "silu": (lambda k, x: k.silu(x), [(5,)]),
    "gelu": (lambda k, x: k.gelu(x), [(5,)]),
    "gelu_tanh": (lambda k, x: k.gelu_tanh(x), [(5,)]),
    "rms_norm": (lambda k, x, w: k.rms_norm(x, w, 1e-5), [(3, 4), (4,)]),
    "layer_norm": (lambda k, x, w, b: k.layer_norm(x, w, b, 1e-5), [(3, 4), (4,), (4,)]),
    "attention": (lambda k, *qkv: k.scaled_dot_product_attention(*qkv, None, True), [(1, 2, 3, 4)] * 3),
    "cross_entropy": (lambda k, x: k.cross_entropy(x, torch.tensor([1, 0, 3])), [(3, 4)]),
    "batched attention": (lambda k, *qkv: causal_attention(*qkv), [(1, 2, 3, 4)] * 3),
    "batched attention with dropout": (
        lambda k, *qkv: causal_attention(*qkv, Dropping(0.3, torch.tensor(3), 1)),
        [(1, 2, 3, 4)] * 3,
    ),
    "dropout": (lambda k, x: dropout(x * x, 0.3, torch.tensor(3), 1), [(7,)]),
}


@both
@pytest.mark.parametrize("name", OPERATIONS)
def test_float64_is_computed_in_float64_and_twice_differentiable(kernels: ModuleType, name: str) -> None:
    """Central differences to ten digits; torch's own fused attention refuses the second derivative by itself."""
    operation, shapes = OPERATIONS[name]
    arguments = some(*shapes, dtype=torch.float64)
    assert operation(kernels, *arguments).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda *a: operation(kernels, *a), arguments, atol=1e-8, rtol=1e-8)
    if (kernels, name) != (fused, "attention"):
        assert torch.autograd.gradgradcheck(lambda *a: operation(kernels, *a), arguments)


@pytest.mark.skipif(not onednn.AVAILABLE, reason="no product goes to oneDNN here")
def test_a_penalty_on_the_gradients_of_a_large_product_is_torch_s() -> None:
    x, weight, bias = some((64, 128), (128, 128), (128,))
    slopes = []
    for linear, kinds in ((fused.linear, frozenset(onednn.KINDS)), (F.linear, onednn.NONE)):
        with onednn.using(kinds):
            y = linear(x, weight, bias)
            first = torch.autograd.grad(y.square().mean() + y.sum(), (x, weight, bias), create_graph=True)
            penalty = torch.stack([g.square().sum() for g in first]).sum()
            slopes.append(torch.autograd.grad(penalty, (x, weight, bias)))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_checkpointed_blocks_are_gone_through_again_and_refuse_the_rest_by_name() -> None:
    ids = torch.arange(12).view(2, 6) % 31
    models = [LanguageModel(MODELS["llama"], gradient_checkpointing=again) for again in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        loss = model.loss(ids, ids)
        loss.backward(retain_graph=True)
        loss.backward()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    output = models[0](ids).square().mean()
    with pytest.raises(NotImplementedError, match="gradient checkpointing works with backward"):
        torch.autograd.grad(output, list(models[0].parameters()), allow_unused=True, retain_graph=True)
    with pytest.raises(NotImplementedError, match="gradient_checkpointing=False"):
        output.backward(create_graph=True)


def test_checkpointed_blocks_need_nothing_of_torch_s_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds and tens of megabytes, more than a small model saves."""
    for name in ("torch._dynamo", "torch.fx.experimental.symbolic_shapes"):
        monkeypatch.setitem(sys.modules, name, None)
    model = LanguageModel(MODELS["llama"], gradient_checkpointing=True)
    ids = torch.arange(12).view(2, 6) % 31
    model.loss(ids, ids).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
