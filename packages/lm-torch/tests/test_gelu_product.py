"""The operator of an MLP under gradient checkpointing, on any device: its kernels are replaced by torch's own."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_torch import kernels
from lm_torch.gradient_checkpointing import checkpointed
from lm_torch.kernels import gelu_product


def up(x: Tensor, weight: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    z = F.linear(x, weight)
    return z, F.gelu(z if bias is None else z + bias, approximate="tanh" if tanh else "none")


def slope(dy: Tensor, down: Tensor, z: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    shifted = z if bias is None else z + bias
    dz = torch.ops.aten.gelu_backward(dy @ down, shifted, approximate="tanh" if tanh else "none")
    return dz, z.new_empty(0) if bias is None else dz.sum(dim=0)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([torch.randn(32, 16), torch.randn(32), torch.randn(16, 32), torch.randn(16)])

    def forward(self, x: Tensor) -> Tensor:
        return x + gelu_product.mlp(x, *self.parts, tanh=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.11's compiler
@pytest.mark.parametrize("compiled", [False, True])
def test_with_gradient_checkpointing_it_runs_again_and_keeps_nothing(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def taken(what: str, key: Any, ways: Mapping[str, Callable[[], Any]], fixed: str | None) -> Any:
        ran.append(what.split(",")[0])
        return next(iter(ways.values()))()

    monkeypatch.setattr(gelu_product, "by_the_fastest", taken)
    monkeypatch.setattr(gelu_product, "_plain", up)
    monkeypatch.setattr(gelu_product, "_plain_backward", slope)
    monkeypatch.setattr(kernels, "refuse_second_derivative", lambda: None)
    torch.manual_seed(0)
    blocks = [Mlp(), Mlp()]

    def loss(x: Tensor, again: bool) -> Tensor:
        for block in blocks:
            x = checkpointed(block, x) if again else block(x)
        return x.square().mean()

    found = []
    for again in (False, True):
        ran.clear()
        x = torch.ones(2, 3, 16, requires_grad=True)
        step = torch.compile(loss, backend="aot_eager_decomp_partition", fullgraph=True) if compiled else loss
        step(x, again).backward()
        assert ran.count("GELU of a product") == (4 if again else 2)
        assert ran.count("product times the slope of GELU") == 2
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_its_gradients_are_those_of_the_operations_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gelu_product, "by_the_fastest", lambda what, key, ways, fixed: next(iter(ways.values()))())
    monkeypatch.setattr(gelu_product, "_plain", up)
    monkeypatch.setattr(gelu_product, "_plain_backward", slope)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    parts = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((24, 8), (24,), (8, 24), (8,))]
    ours = torch.autograd.grad(gelu_product.mlp(x, *parts, tanh=True).square().sum(), [x, *parts])
    hidden = F.gelu(F.linear(x, parts[0], parts[1]), approximate="tanh")
    theirs = torch.autograd.grad(F.linear(hidden, parts[2], parts[3]).square().sum(), [x, *parts])
    torch.testing.assert_close(ours, theirs)
