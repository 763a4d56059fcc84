"""Causal flash attention with this project's dropout: operators that autograd and the compiler know.

    bits = attention_mask(key, site, rate, [B, N, T])          one bit for each attention weight
    out, statistics = attention(q, k, v, bits, ...)            forward
    dq, dk, dv = attention_backward(dout, ...)                 the weights made again from q, k and statistics

The masks are the integers that `lm_core.reference.dropout` gives for the weights [B, N, T, T]. A hash is some twenty
integer operations: all of them take longer than the rest of the forward pass. So each is made once and kept as a bit
for the backward pass, which takes B N T^2 / 8 bytes.

Axes: B batch, T time, N heads, K kv heads, H head.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm_core.rng import threshold
from lm_torch.dropout import Dropping
from lm_torch.kernels import refuse_second_derivative

WIDEST = 256
"""Elements of a head up to which a block of them fits on the chip."""


class Blocks(NamedTuple):
    """How a program is cut: queries and keys at a time, warps, and loads that are in flight."""

    rows: int
    columns: int
    warps: int = 4
    stages: int = 2


BLOCKS: dict[str, dict[str, Blocks]] = {
    "bfloat16": {"forward": Blocks(64, 64, 4, 3), "queries": Blocks(64, 64, 4, 3), "keys": Blocks(64, 128, 8, 2)},
    "float32": {"forward": Blocks(64, 32, 8, 1), "queries": Blocks(64, 32, 8, 1), "keys": Blocks(32, 64, 8, 1)},
    "wide": {"forward": Blocks(32, 32, 8, 1), "queries": Blocks(32, 32, 8, 1), "keys": Blocks(32, 32, 8, 1)},
}
"""Chosen by hand, not tried out at run time: other blocks would give other bits. "wide" is for heads above 128, and
above 64 in float32."""

_WORDS = 8
"""Words of 32 keys are allotted by this many, so that a block of keys may read past the last one."""


def usable(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the shapes are those that the programs take: self-attention over [B, N, T, H] and [B, K, T, H]."""
    return (
        q.ndim == k.ndim == 4
        and q.shape[2] == k.shape[2]
        and q.dtype == k.dtype == v.dtype
        and k.shape == v.shape
        and q.shape[3] <= WIDEST
    )


def attention(q: Tensor, k: Tensor, v: Tensor, drop: Dropping | None = None, segments: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(H)) v, causal, with weights dropped before they mix v: q [B, N, T, H] -> [B, N, T, H].

    Args:
        q: [B, N, T, H].
        k: [B, K, T, H], of which each head serves N / K query heads.
        v: as k.
        drop: which weights are dropped; None keeps all.
        segments: [B, T], integers: a query sees only keys of its own segment.
    """
    bits = None
    if drop is not None:
        bits = torch.ops.lm_torch.attention_mask(drop.key, drop.site, drop.rate, list(q.shape[:3]))
    rate = 0.0 if drop is None else drop.rate
    out: Tensor = torch.ops.lm_torch.attention(q, k, v, bits, segments, rate)[0]
    return out


@torch.library.custom_op("lm_torch::attention_mask", mutates_args=())
def _mask(key: Tensor, site: int, rate: float, shape: list[int]) -> Tensor:
    from lm_torch.kernels.programs import dropout

    B, N, T = shape
    bits, rows = _empty_mask(key, shape), 128
    grid = (B * N, -(-T // 32), -(-T // rows))
    dropout.attention_bits[grid](bits, key, site, B * N // key.numel(), T, bits.shape[1], threshold(rate), rows)
    return bits


@_mask.register_fake
def _mask_shape(key: Tensor, site: int, rate: float, shape: list[int]) -> Tensor:
    return _empty_mask(key, shape)


def _empty_mask(key: Tensor, shape: list[int]) -> Tensor:
    """[B N, words, T] int32: bit i of word w of query t says whether it keeps key 32 w + i."""
    B, N, T = shape
    return torch.empty(B * N, (T + 32 * _WORDS - 1) // (32 * _WORDS) * _WORDS, T, dtype=torch.int32, device=key.device)


@torch.library.custom_op("lm_torch::attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, bits: Tensor | None, segments: Tensor | None, rate: float
) -> tuple[Tensor, Tensor]:
    from lm_torch.kernels.programs import attention as programs

    q, k, v = map(_rows, (q, k, v))
    out, statistics = _attention_shape(q, k, v, bits, segments, rate)
    blocks = _blocks(q, "forward")
    programs.forward[(statistics.numel() // q.shape[2] * -(-q.shape[2] // blocks.rows),)](
        q, k, v, out, statistics, bits, segments, *_strides(q, k, v, out),
        **_sizes(q, k, bits, segments, rate), **_cut(q, blocks),
    )  # fmt: skip
    return out, statistics


@_attention.register_fake
def _attention_shape(
    q: Tensor, k: Tensor, v: Tensor, bits: Tensor | None, segments: Tensor | None, rate: float
) -> tuple[Tensor, Tensor]:
    return _empty_heads(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("lm_torch::attention_backward", mutates_args=())
def _backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    statistics: Tensor,
    bits: Tensor | None,
    segments: Tensor | None,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from lm_torch.kernels.programs import attention as programs

    q, k, v, out, dout = map(_rows, (q, k, v, out, dout))
    dq, dk, dv = _empty_heads(q), _empty_heads(k), _empty_heads(k)
    deltas, sizes, T = torch.empty_like(statistics), _sizes(q, k, bits, segments, rate), q.shape[2]
    blocks = _blocks(q, "queries")
    programs.backward_queries[(q.shape[0] * q.shape[1] * -(-T // blocks.rows),)](
        q, k, v, out, dout, dq, statistics, deltas, bits, segments, *_strides(q, k, v, out, dout, dq), **sizes,
        **_cut(q, blocks),
    )  # fmt: skip
    blocks = _blocks(q, "keys")
    programs.backward_keys[(k.shape[0] * k.shape[1] * -(-T // blocks.columns),)](
        q, k, v, dout, dk, dv, statistics, deltas, bits, segments, *_strides(q, k, v, dout, dk, dv), **sizes,
        **_cut(q, blocks),
    )  # fmt: skip
    return dq, dk, dv


@_backward.register_fake
def _backward_shape(dout: Tensor, q: Tensor, k: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_heads(q), _empty_heads(k), _empty_heads(k)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.rate = inputs
    ctx.save_for_backward(*tensors[:3], *output, *tensors[3:])


def _gradients(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivative()
    gradients = torch.ops.lm_torch.attention_backward(dout, *ctx.saved_tensors, ctx.rate)
    return (*gradients, None, None, None)


_attention.register_autograd(_gradients, setup_context=_keep)


def _rows(x: Tensor) -> Tensor:
    """x, whose last axis lies in one piece."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_heads(x: Tensor) -> Tensor:
    """For a result like x [B, N, T, H], laid out as [B, T, N, H], which is what projections read and write."""
    B, N, T, H = x.shape
    return x.new_empty(B, T, N, H).transpose(1, 2)


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:3]]


def _blocks(q: Tensor, program: str) -> Blocks:
    name = str(q.dtype).removeprefix("torch.")
    return BLOCKS["wide" if q.shape[3] > (128 if q.dtype == torch.bfloat16 else 64) else name][program]


def _sizes(q: Tensor, k: Tensor, bits: Tensor | None, segments: Tensor | None, rate: float) -> dict[str, Any]:
    """Numbers and constants that all programs take."""
    exact = q.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return {
        "heads": q.shape[1],
        "group": q.shape[1] // k.shape[1],
        "words": 0 if bits is None else bits.shape[1],
        "length": q.shape[2],
        "scale": q.shape[3] ** -0.5,
        "H": q.shape[3],
        "HIGH": max(16, 1 << (q.shape[3] - 1).bit_length()),
        "DROP": bits is not None,
        "kept": 1 - rate,
        "SEGMENTS": segments is not None,
        "PRECISION": "ieee" if exact else "tf32",
    }


def _cut(q: Tensor, blocks: Blocks) -> dict[str, Any]:
    whole = q.shape[2] % max(blocks.rows, blocks.columns) == 0
    cut = {"ROWS": blocks.rows, "COLUMNS": blocks.columns, "WHOLE": whole}
    return {**cut, "num_warps": blocks.warps, "num_stages": blocks.stages}
