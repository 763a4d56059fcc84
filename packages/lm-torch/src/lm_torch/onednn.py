"""Matrix products on the CPU by oneDNN, where that pays: on processors with AVX-512.

For float32, torch takes MKL, which stays with 256-bit vectors on AMD's processors. oneDNN looks at what the processor
can do, so with AVX-512 it is about twice as fast there (docs/benchmarks.md). With AVX2 alone both have 256-bit vectors,
and oneDNN's preparation makes a training step slower: torch keeps MKL. The operator is the one that torch's own
compiler emits.

The choice goes by the instruction set, not by the maker. Intel's processors with AVX-512 were not measured.
ATEN_CPU_CAPABILITY=avx2, torch's own variable, leaves everything to torch.
"""

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1 << 19
"""Multiplications from which the product is worth oneDNN's 10 us of preparation."""


def pays(capability: str) -> bool:
    """Whether oneDNN is faster than what torch does by itself, with the vectors that torch names: "AVX2", "AVX512"."""
    return capability.startswith("AVX512")


USED = (
    pays(torch.backends.cpu.get_cpu_capability())
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""Whether any product goes to oneDNN in this process."""


def is_better(x: Tensor, weight: Tensor) -> bool:
    """Whether x [..., in] times weight [out, in] should go to oneDNN."""
    return x.numel() * len(weight) >= SMALLEST and USED and x.dtype == torch.float32 and x.device.type == "cpu"


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

    oneDNN's operator copies its first matrix where that is transposed: it gets the narrower one.
    """
    if a.shape[1] <= b.shape[1]:
        return product(a.t(), b.t())
    return product(b.t(), a.t()).t().contiguous()


class _Linear(torch.autograd.Function):
    """y = x W^T + b, and its three gradients, each one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        again = differentiated_again()
        dweight = (linear(dy.t(), x.t()) if again else transposed_product(dy, x)) if needs_weight else None
        return (
            (linear if again else product)(dy, weight.t()) if needs_x else None,
            dweight,
            dy.sum(dim=0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: [..., in] -> [..., out], with gradients."""
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Linear.apply(rows, weight, bias) if torch.is_grad_enabled() else product(rows, weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])
