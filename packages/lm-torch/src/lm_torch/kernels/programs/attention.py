"""Flash attention (Dao 2023, arXiv 2307.08691) with dropout whose masks are a hash: causal self-attention, both ways.

    forward:   a block of queries goes over the keys it sees, with the softmax's largest score and sum carried along
    queries:   the same walk again for dq; it also makes delta = sum_h dout out, which the softmax's gradient subtracts
    keys:      a block of keys goes over the queries that see it, of each query head it serves, for dk and dv

Every sum is made by one program, in one order. Blocks that the diagonal cuts are masked, those below it are not.
Tensors are [B, heads, T, H] by strides (of batch, head and time), H contiguous; statistics are [B N, T] in float32,
with logarithms to base 2. If DROP, a mask is applied, of which `bits` are those of `dropout.attention_bits`, and `kept`
is the share of the weights that stays, 1 - rate. WHOLE says that the blocks divide T. `segments` [B, T]: a query sees
the keys of its own document alone.
"""

import os

import triton
import triton.language as tl

from lm_torch.kernels.programs.dropout import load_bits

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
_LOG2_E = tl.constexpr(1.4426950408889634)
_HIDDEN = tl.constexpr(-1.0e30)  # finite: differences of infinities are nan


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    if _INTERPRETED:  # numpy has no bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _load(first, stride, times, length, h, H: tl.constexpr, HIGH: tl.constexpr, WHOLE: tl.constexpr):
    """[times, HIGH] of a head whose first element lies at `first`; 0 past the end and past H."""
    at = first + times[:, None] * stride + h[None, :]
    if WHOLE and H == HIGH:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=(times < length)[:, None] & (h < H)[None, :], other=0.0)
    return x


@triton.jit
def _seen(row, column, segments, length, MASKED: tl.constexpr, SEGMENTS: tl.constexpr, AXIS: tl.constexpr):
    """Whether queries see keys, bool [rows, columns] (AXIS 1) or its transpose; `segments` of this row of the batch."""
    rows, columns = tl.expand_dims(row, AXIS), tl.expand_dims(column, 1 - AXIS)
    seen = (rows >= 0) & (columns >= 0)
    if MASKED:
        seen = rows >= columns
    if SEGMENTS:
        of_row = tl.expand_dims(tl.load(segments + row, mask=row < length, other=-1), AXIS)
        of_column = tl.expand_dims(tl.load(segments + column, mask=column < length, other=-1), 1 - AXIS)
        seen = seen & (of_row == of_column)
    return seen


@triton.jit
def _mix_in(
    q, out, largest, total, k, k_t, v, v_t, bits, segments, pair, words, length, rows, first, last, scale,
    H: tl.constexpr, HIGH: tl.constexpr, COLUMNS: tl.constexpr, DROP: tl.constexpr,
    SEGMENTS: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go over the keys first to last: out [ROWS, HIGH] not yet divided, the largest score and the sum [ROWS]."""
    h = tl.arange(0, HIGH)
    for start in range(first, last, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        keys = _load(k, k_t, columns, length, h, H, HIGH, WHOLE or not MASKED)
        scores = _dot(q, tl.trans(keys), tl.zeros((q.shape[0], COLUMNS), tl.float32), PRECISION)
        if MASKED or SEGMENTS:
            seen = _seen(rows, columns, segments, length, MASKED, SEGMENTS, 1)
            scores = tl.where(seen, scores, _HIDDEN)
        larger = tl.maximum(largest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - larger[:, None])
        if SEGMENTS:  # of a query that sees none of the block: the product is not rounded before the difference
            weights = tl.where(seen, weights, 0.0)
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        if DROP:
            stays = load_bits(bits, pair, words, length, rows, start, COLUMNS, 1)
            weights = tl.where(stays, weights, 0.0)
        values = _load(v, v_t, columns, length, h, H, HIGH, WHOLE or not MASKED)
        out = _dot(weights.to(values.dtype), values, out * shrink[:, None], PRECISION)
        largest = larger
    return out, largest, total


@triton.jit
def forward(
    q, k, v, out, statistics, bits, segments,
    q_b, q_n, q_t, k_b, k_n, k_t, v_b, v_n, v_t, o_b, o_n, o_t,
    heads, group, words, length, scale, kept,
    H: tl.constexpr, HIGH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DROP: tl.constexpr,
    SEGMENTS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out = dropped(softmax(q k^T)) v, and the base-2 log of the softmax's sums. Grid: (B N ceil(T / ROWS),)."""
    blocks = tl.cdiv(length, ROWS)
    pair = tl.program_id(0) // blocks
    block = blocks - 1 - tl.program_id(0) % blocks  # the longest first
    b, n = (pair // heads).to(tl.int64), pair % heads
    k += b * k_b + (n // group) * k_n
    v += b * v_b + (n // group) * v_n
    if SEGMENTS:
        segments += b * length
    rows, h = block * ROWS + tl.arange(0, ROWS), tl.arange(0, HIGH)
    query = _load(q + b * q_b + n * q_n, q_t, rows, length, h, H, HIGH, WHOLE)
    mixed = tl.zeros((ROWS, HIGH), tl.float32)
    largest, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    scale2 = scale * _LOG2_E
    cut = block * ROWS // COLUMNS * COLUMNS
    mixed, largest, total = _mix_in(
        query, mixed, largest, total, k, k_t, v, v_t, bits, segments, pair, words, length, rows,
        0, cut, scale2, H, HIGH, COLUMNS, DROP, SEGMENTS, False, WHOLE, PRECISION,
    )  # fmt: skip
    mixed, largest, total = _mix_in(
        query, mixed, largest, total, k, k_t, v, v_t, bits, segments, pair, words, length, rows,
        cut, tl.minimum(block * ROWS + ROWS, length), scale2, H, HIGH, COLUMNS, DROP, SEGMENTS, True, WHOLE,
        PRECISION,
    )  # fmt: skip
    mixed *= (1.0 / (total * kept))[:, None]
    inside = rows < length
    tl.store(statistics + pair.to(tl.int64) * length + rows, largest + tl.log2(total), mask=inside)
    at = out + b * o_b + n * o_n + rows[:, None] * o_t + h[None, :]
    tl.store(at, mixed.to(out.dtype.element_ty), mask=inside[:, None] & (h < H)[None, :])


@triton.jit
def _dq_of(
    dq, q, dout, log_sums, delta, k, k_t, v, v_t, bits, segments, pair, words, length, rows, first, last,
    scale, H: tl.constexpr, HIGH: tl.constexpr, COLUMNS: tl.constexpr, DROP: tl.constexpr,
    SEGMENTS: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go over the keys first to last: dq [ROWS, HIGH], not yet scaled."""
    h = tl.arange(0, HIGH)
    for start in range(first, last, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        keys = _load(k, k_t, columns, length, h, H, HIGH, WHOLE or not MASKED)
        values = _load(v, v_t, columns, length, h, H, HIGH, WHOLE or not MASKED)
        zeros = tl.zeros((q.shape[0], COLUMNS), tl.float32)
        weights = tl.exp2(_dot(q, tl.trans(keys), zeros, PRECISION) * scale - log_sums[:, None])
        if MASKED or SEGMENTS:
            weights = tl.where(_seen(rows, columns, segments, length, MASKED, SEGMENTS, 1), weights, 0.0)
        dweights = _dot(dout, tl.trans(values), zeros, PRECISION)
        if DROP:
            stays = load_bits(bits, pair, words, length, rows, start, COLUMNS, 1)
            dweights = tl.where(stays, dweights, 0.0)
        dscores = weights * (dweights - delta[:, None])
        dq = _dot(dscores.to(keys.dtype), keys, dq, PRECISION)
    return dq


@triton.jit
def backward_queries(
    q, k, v, out, dout, dq, statistics, deltas, bits, segments,
    q_b, q_n, q_t, k_b, k_n, k_t, v_b, v_n, v_t, o_b, o_n, o_t, do_b, do_n, do_t, dq_b, dq_n, dq_t,
    heads, group, words, length, scale, kept,
    H: tl.constexpr, HIGH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DROP: tl.constexpr,
    SEGMENTS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, and delta [B N, T] for `backward_keys`. Grid: (B N ceil(T / ROWS),)."""
    blocks = tl.cdiv(length, ROWS)
    pair = tl.program_id(0) // blocks
    block = blocks - 1 - tl.program_id(0) % blocks
    b, n = (pair // heads).to(tl.int64), pair % heads
    k += b * k_b + (n // group) * k_n
    v += b * v_b + (n // group) * v_n
    if SEGMENTS:
        segments += b * length
    rows, h = block * ROWS + tl.arange(0, ROWS), tl.arange(0, HIGH)
    query = _load(q + b * q_b + n * q_n, q_t, rows, length, h, H, HIGH, WHOLE)
    dmixed = _load(dout + b * do_b + n * do_n, do_t, rows, length, h, H, HIGH, WHOLE)
    mixed = _load(out + b * o_b + n * o_n, o_t, rows, length, h, H, HIGH, WHOLE)
    delta = tl.sum(dmixed.to(tl.float32) * mixed.to(tl.float32), 1) * kept
    inside = rows < length
    tl.store(deltas + pair.to(tl.int64) * length + rows, delta, mask=inside)
    log_sums = tl.load(statistics + pair.to(tl.int64) * length + rows, mask=inside, other=0.0)
    cut = block * ROWS // COLUMNS * COLUMNS
    total = _dq_of(
        tl.zeros((ROWS, HIGH), tl.float32), query, dmixed, log_sums, delta, k, k_t, v, v_t, bits, segments,
        pair, words, length, rows, 0, cut, scale * _LOG2_E, H, HIGH, COLUMNS, DROP, SEGMENTS, False,
        WHOLE, PRECISION,
    )  # fmt: skip
    total = _dq_of(
        total, query, dmixed, log_sums, delta, k, k_t, v, v_t, bits, segments,
        pair, words, length, rows, cut, tl.minimum(block * ROWS + ROWS, length), scale * _LOG2_E, H, HIGH, COLUMNS,
        DROP, SEGMENTS, True, WHOLE, PRECISION,
    )  # fmt: skip
    at = dq + b * dq_b + n * dq_n + rows[:, None] * dq_t + h[None, :]
    tl.store(at, (total * (scale / kept)).to(dq.dtype.element_ty), mask=inside[:, None] & (h < H)[None, :])


@triton.jit
def _dk_dv_of(
    dk, dv, keys, values, q, q_t, dout, do_t, statistics, deltas, bits, segments, pair, words, length,
    columns, start, first, last, scale,
    H: tl.constexpr, HIGH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DROP: tl.constexpr,
    SEGMENTS: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Go over the queries first to last of a head: dk, dv [COLUMNS, HIGH], not yet scaled; weights are transposed."""
    h = tl.arange(0, HIGH)
    for begin in range(first, last, ROWS):
        rows = begin + tl.arange(0, ROWS)
        query = _load(q, q_t, rows, length, h, H, HIGH, WHOLE)
        dmixed = _load(dout, do_t, rows, length, h, H, HIGH, WHOLE)
        at = pair.to(tl.int64) * length + rows
        if WHOLE:
            log_sums, delta = tl.load(statistics + at), tl.load(deltas + at)
        else:
            log_sums = tl.load(statistics + at, mask=rows < length, other=0.0)
            delta = tl.load(deltas + at, mask=rows < length, other=0.0)
        zeros = tl.zeros((COLUMNS, ROWS), tl.float32)
        weights = tl.exp2(_dot(keys, tl.trans(query), zeros, PRECISION) * scale - log_sums[None, :])
        if MASKED or SEGMENTS:
            weights = tl.where(_seen(rows, columns, segments, length, MASKED, SEGMENTS, 0), weights, 0.0)
        dweights = _dot(values, tl.trans(dmixed), zeros, PRECISION)
        mixing = weights
        if DROP:
            stays = load_bits(bits, pair, words, length, rows, start, COLUMNS, 0)
            mixing = tl.where(stays, weights, 0.0)
            dweights = tl.where(stays, dweights, 0.0)
        dv = _dot(mixing.to(dmixed.dtype), dmixed, dv, PRECISION)
        dscores = weights * (dweights - delta[None, :])
        dk = _dot(dscores.to(query.dtype), query, dk, PRECISION)
    return dk, dv


@triton.jit
def backward_keys(
    q, k, v, dout, dk, dv, statistics, deltas, bits, segments,
    q_b, q_n, q_t, k_b, k_n, k_t, v_b, v_n, v_t, do_b, do_n, do_t, dk_b, dk_n, dk_t, dv_b, dv_n, dv_t,
    heads, group, words, length, scale, kept,
    H: tl.constexpr, HIGH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DROP: tl.constexpr,
    SEGMENTS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv, summed over the query heads that a kv head serves. Grid: (B K ceil(T / COLUMNS),)."""
    blocks, kv_heads = tl.cdiv(length, COLUMNS), heads // group
    b = (tl.program_id(0) // blocks // kv_heads).to(tl.int64)
    kv_head, start = tl.program_id(0) // blocks % kv_heads, tl.program_id(0) % blocks * COLUMNS
    columns, h = start + tl.arange(0, COLUMNS), tl.arange(0, HIGH)
    if SEGMENTS:
        segments += b * length
    keys = _load(k + b * k_b + kv_head * k_n, k_t, columns, length, h, H, HIGH, WHOLE)
    values = _load(v + b * v_b + kv_head * v_n, v_t, columns, length, h, H, HIGH, WHOLE)
    dkeys, dvalues = tl.zeros((COLUMNS, HIGH), tl.float32), tl.zeros((COLUMNS, HIGH), tl.float32)
    cut = tl.minimum(tl.cdiv(start + COLUMNS, ROWS) * ROWS, length)
    for i in range(group):
        n = kv_head * group + i
        pair = (b * heads + n).to(tl.int32)
        dkeys, dvalues = _dk_dv_of(
            dkeys, dvalues, keys, values, q + b * q_b + n * q_n, q_t, dout + b * do_b + n * do_n, do_t, statistics,
            deltas, bits, segments, pair, words, length, columns, start, start // ROWS * ROWS, cut,
            scale * _LOG2_E, H, HIGH, ROWS, COLUMNS, DROP, SEGMENTS, True, WHOLE, PRECISION,
        )  # fmt: skip
        dkeys, dvalues = _dk_dv_of(
            dkeys, dvalues, keys, values, q + b * q_b + n * q_n, q_t, dout + b * do_b + n * do_n, do_t, statistics,
            deltas, bits, segments, pair, words, length, columns, start, cut, length,
            scale * _LOG2_E, H, HIGH, ROWS, COLUMNS, DROP, SEGMENTS, False, WHOLE, PRECISION,
        )  # fmt: skip
    inside = (columns < length)[:, None] & (h < H)[None, :]
    times = columns[:, None]
    dkeys = (dkeys * (scale / kept)).to(dk.dtype.element_ty)
    tl.store(dk + b * dk_b + kv_head * dk_n + times * dk_t + h[None, :], dkeys, mask=inside)
    dvalues = (dvalues / kept).to(dv.dtype.element_ty)
    tl.store(dv + b * dv_b + kv_head * dv_n + times * dv_t + h[None, :], dvalues, mask=inside)
