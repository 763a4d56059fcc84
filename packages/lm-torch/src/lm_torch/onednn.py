"""Matrix products on the CPU by oneDNN, where that pays: on processors with AVX-512.

For float32, torch takes MKL, which stays with 256-bit vectors on AMD's processors. oneDNN looks at what the processor
can do, so with AVX-512 it is about twice as fast there (docs/benchmarks.md). With AVX2 alone both have 256-bit vectors,
and oneDNN's preparation makes a training step slower: torch keeps MKL. The operator is the one that torch's own
compiler emits.

For attention in bfloat16, torch's flash kernel is slow backwards on the CPU: six times slower at 64 positions than the
batched products that it stands for, which torch gives to oneDNN, also only with AVX-512.

The choice goes by the instruction set, not by the maker. Intel's processors with AVX-512 were not measured.
ATEN_CPU_CAPABILITY=avx2, torch's own variable, leaves everything to torch.
"""

import math
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1 << 19
"""Multiplications from which the product is worth oneDNN's 10 us of preparation."""

LONGEST = 1024
"""Positions up to which attention in bfloat16 is spelled out: all of its weights are held."""


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
        times = linear if differentiated_again() else product
        return (
            times(dy, weight.t()) if needs_x else None,
            times(dy.t(), x.t()) if needs_weight else None,
            dy.sum(dim=0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: [..., in] -> [..., out], with gradients."""
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Linear.apply(rows, weight, bias) if torch.is_grad_enabled() else product(rows, weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])


def attends_better(q: Tensor) -> bool:
    """Whether causal self-attention over q [..., T, H] should be batched products."""
    return (
        USED
        and q.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and 1 < q.shape[-2] <= LONGEST
        and not torch.compiler.is_compiling()
    )


class _CausalAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(H)) v over [rows, T, H], causal."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.scale = 1 / math.sqrt(q.shape[-1])
        future = torch.full((q.shape[1], q.shape[1]), -math.inf, dtype=q.dtype).triu(1)
        weights = torch.softmax(torch.baddbmm(future, q, k.mT, alpha=ctx.scale), dim=-1)
        ctx.save_for_backward(q, k, v, weights)
        return weights @ v

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, weights = ctx.saved_tensors
        dweights = dy @ v.mT
        if differentiated_again():  # spelled out, from what has a graph
            future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
            weights = torch.softmax((q @ k.mT * ctx.scale).masked_fill(future, -math.inf), dim=-1)
            dscores = weights * (dweights - (weights * dweights).sum(dim=-1, keepdim=True)) * ctx.scale
            return dscores @ k, dscores.mT @ q, weights.mT @ dy
        # The gradient of softmax, w (dw - sum w dw), in one pass.
        dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype).mul_(ctx.scale)
        return dscores @ k, dscores.mT @ q, weights.mT @ dy


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [..., T, H] -> [..., T, H]; query t sees the keys 0 to t."""
    y: Tensor = _CausalAttention.apply(*(a.reshape(-1, *a.shape[-2:]) for a in (q, k, v)))
    return y.view(q.shape)
