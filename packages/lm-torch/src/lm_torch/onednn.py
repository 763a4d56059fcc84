"""Float32 matrix products on the CPU by oneDNN, of those kinds for which it is the faster one.

    forward          y = x W^T         [rows, in] x [out, in]
    input gradient   dx = dy W         [rows, out] x [out, in]
    weight gradient  dW = dy^T x       [rows, out] x [rows, in]; oneDNN's operator copies a transposed matrix first
    one row          y = x W^T         of a single row, as in decoding: bound by reading W

torch takes MKL, which stays with 256-bit vectors on AMD's processors, and reads a matrix for one row at half of the
memory's speed there; oneDNN looks at what the processor can do. Which of them is faster depends on the processor and
the kind, so it is measured (`product_choice`); what nobody has measured goes by the instruction set (`by_default`).
The operator is the one that torch's own compiler emits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["forward", "input gradient", "weight gradient", "one row"]
Kinds = frozenset[Kind]
KINDS: tuple[Kind, ...] = get_args(Kind)
NONE: Kinds = frozenset()

SMALLEST = 1 << 19
"""Multiplications from which the product is worth oneDNN's 10 us of preparation."""

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether any product can go to oneDNN in this process."""


def by_default(capability: str) -> Kinds:
    """The kinds that go to oneDNN unmeasured, with the vectors that torch names: "AVX2", "AVX512".

    With AVX-512 it was at least as fast on every processor so far, but for weights' gradients; one row is read by two
    threads rather than one with AVX2 too.
    """
    if AVAILABLE and capability.startswith("AVX512"):
        return frozenset(KINDS) - {"weight gradient"}
    return frozenset(["one row"]) if AVAILABLE and capability == "AVX2" else NONE


_chosen = by_default(torch.backends.cpu.get_cpu_capability())


def chosen() -> Kinds:
    """The kinds that go to oneDNN at the moment."""
    return _chosen


@contextmanager
def using(kinds: Kinds) -> Iterator[None]:
    """A context in which these kinds of products go to oneDNN, and no others."""
    global _chosen
    before, _chosen = _chosen, kinds
    try:
        yield
    finally:
        _chosen = before


@contextmanager
def off() -> Iterator[None]:
    """A context in which torch itself gives nothing to oneDNN.

    For one row by a matrix of bfloat16: torch's own kernel widens in registers, and reads the matrix at the memory's
    speed, oneDNN's at 0.55 of it (docs/benchmarks.md).
    """
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def is_better(x: Tensor, weight: Tensor, *kinds: Kind) -> bool:
    """Whether x [..., in] times weight [out, in] should go to oneDNN, where one of the kinds does; by default any."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or x.numel() * len(weight) < SMALLEST:
        return False
    return any(kind in _chosen for kind in kinds) if kinds else bool(_chosen)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [rows, in], weight [out, in], either of them transposed or not in memory -> [rows, out]; no gradient."""
    operator = _opaque_product if torch.compiler.is_compiling() else _product
    return operator(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


# The compiler takes the operator for constant weights only; what it cannot look into, it calls.
_opaque_product = torch.library.custom_op("lm_torch::onednn_product", _product, mutates_args=())


@_opaque_product.register_fake
def _shape_of_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def differentiated_again() -> bool:
    """Whether the backward pass that is on is itself recorded (create_graph); a compiler records none."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b: a [rows, n], b [rows, m] -> [n, m]; no gradient.

    oneDNN's operator copies its first matrix where that is transposed: it gets b where b and the result, which is then
    transposed too, have fewer elements than a.
    """
    rows, n, m = *a.shape, b.shape[1]
    if rows * n <= rows * m + n * m:
        return product(a.t(), b.t())
    return product(b.t(), a.t()).t().contiguous()


def forward_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by the library that is chosen for it: x [rows, in] -> [rows, out]; no gradient."""
    kind: Kind = "one row" if len(x) == 1 else "forward"
    return product(x, weight, bias) if kind in _chosen else F.linear(x, weight, bias)


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """dy W, likewise: dy [rows, out], weight [out, in] -> [rows, in]; no gradient."""
    return product(dy, weight.t()) if "input gradient" in _chosen else dy @ weight


def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """dy^T x, likewise: dy [rows, out], x [rows, in] -> [out, in]; no gradient."""
    return transposed_product(dy, x) if "weight gradient" in _chosen else dy.t() @ x


class _Linear(torch.autograd.Function):
    """y = x W^T + b, and its three gradients, each one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return forward_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dbias = dy.sum(dim=0) if needs_bias else None
        if differentiated_again():
            dx = linear(dy, weight.t()) if needs_x else None
            return dx, linear(dy.t(), x.t()) if needs_weight else None, dbias
        dx = input_gradient(dy, weight) if needs_x else None
        return dx, weight_gradient(dy, x) if needs_weight else None, dbias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: [..., in] -> [..., out], with gradients."""
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Linear.apply(rows, weight, bias) if torch.is_grad_enabled() else forward_product(rows, weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])
