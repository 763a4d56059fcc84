"""The step of decoding for a few rows: products of a matrix with a vector or some, and what stands between them.

    take -> n_layers x layer -> normed_linear (of the head; in it the largest logit of each part)
    layer:  normed_linear -> cached_attention.attend, .mixed_linear -> normed_linear -> linear

What a step takes is reading the weights once, and waiting: of each kernel, for the one in front of it. So a program
holds some rows of a matrix, which it loads before anything else, and goes over the rows of text with them; norms, the
activation, the sums of attention and the residual stream are made on the way, in float32, by every program for itself.

EARLY (programmatic dependent launch, from compute capability 9.0 on): a kernel begins before the one in front of it has
ended, loads its weights, and waits for it only then. What is behind `take` begins when all in front of that has ended.
So what a step before has written, cache and positions, may be loaded early too.

A vector of D or F is [PARTS, WIDE], so that neighbours lie in neighbouring threads and most sums stay in a thread.

One row of text is multiplied by the ordinary units. Several, in bfloat16, go through the matrix units all at once
(`normed_rows_linear`, `rows_linear`): 16 rows of a matrix by 8 rows of text, each number of which is split into two of
bfloat16, so that hardly more is lost than in float32.

Axes: R rows, D model, F feed-forward, N heads, K kv heads, H head, S cached time, C chunks of it.
"""

import os

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def begin(EARLY: tl.constexpr):
    """Where EARLY, wait for the kernels in front: loads before this must not depend on them, loads after it may."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def begin_last(EARLY: tl.constexpr):
    """As `begin`, but what comes after begins no sooner than all in front has ended: so that of these kernels too what
    they have written may be loaded early there."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def scales_of(scales, n, kept, SCALED: tl.constexpr):
    """What the rows n of an int8 matrix are multiplied by; 1 of others."""
    if SCALED:
        return tl.load(scales + n, mask=kept, other=0.0)
    return tl.full(n.shape, 1.0, tl.float32)


@triton.jit
def tile_of(weight, n, columns, kept, inside, width):
    """[PARTS, n, WIDE] of a matrix; 0 outside."""
    at = n.to(tl.int64)[None, :, None] * width + columns[:, None, :]
    return tl.load(weight + at, mask=kept[None, :, None] & inside[:, None, :], other=0.0)


@triton.jit
def times(tile, x):
    """The tile times a vector [PARTS, WIDE], in float32."""
    return tl.sum(tl.sum(tile.to(tl.float32) * x[:, None, :], 0), 1)


@triton.jit
def _total(x):
    return tl.sum(tl.sum(x, 0), 0)


@triton.jit
def _normed(vector, gains, shifts, inside, width, eps, CENTRED: tl.constexpr):
    """LayerNorm, or RMSNorm if not CENTRED, of a vector [PARTS, WIDE]."""
    if CENTRED:
        vector = tl.where(inside, vector - _total(vector) / width, 0.0)
    return vector * tl.rsqrt(_total(vector * vector) / width + eps) * gains + shifts


@triton.jit
def _products(tile, x):
    """The tile times vectors [PARTS, WIDE, LANES]: [n, LANES], by the matrix units."""
    high = x.to(tl.bfloat16)
    low = (x - high.to(tl.float32)).to(tl.bfloat16)
    if _INTERPRETED:  # numpy has no bfloat16
        tile, high, low = tile.to(tl.float32), high.to(tl.float32), low.to(tl.float32)
    else:
        tile = tile.to(tl.bfloat16)  # exact for int8 too
    return tl.sum(tl.dot(tile, low, tl.dot(tile, high)), 0)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    """0: x; 1: exact GELU; 2: its tanh form; 3: x times its logistic."""
    if ACTIVATION == 1:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == 2:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x / (1.0 + tl.exp(-2.0 * inner))  # x / 2 (1 + tanh(inner))
    if ACTIVATION == 3:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def take(
    most, most_ids, ids, drawn, turn, table, position_table, positions, x, parts, stride, width, last,
    GREEDY: tl.constexpr, MOST_PARTS: tl.constexpr, PLACED: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, D] = table[id] (+ position_table[positions], if PLACED; `last` is the last of them); the id is noted.

    That is of ids [R], or, if GREEDY, the one of the largest logit, of which most and most_ids [R, parts] have the
    largest of each part. drawn[turn[r], r] = the id; turn [R] += 1. Grid: (R,).
    """
    row, columns, part = tl.program_id(0), tl.arange(0, COLUMNS), tl.arange(0, MOST_PARTS)
    inside = columns < width
    begin_last(EARLY)
    at = tl.load(turn + row)
    if GREEDY:
        place = row * parts + part
        highest = tl.load(most + place, mask=part < parts, other=float("-inf"))
        found = tl.load(most_ids + place, mask=part < parts, other=0x7FFFFFFF)
        chosen = tl.min(tl.where(highest == tl.max(highest, 0), found, 0x7FFFFFFF), 0).to(tl.int64)
    else:
        chosen = tl.load(ids + row)
    tl.debug_barrier()  # all have read the turn
    tl.store(turn + row, at + 1)
    tl.store(drawn + at * stride + row, chosen)
    value = tl.load(table + chosen * width + columns, mask=inside, other=0.0).to(tl.float32)
    if PLACED:
        position = tl.minimum(tl.load(positions + row), last)
        value += tl.load(position_table + position * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * width + columns, value, mask=inside)


@triton.jit
def _advance(positions, row, rows):
    """positions [R] += 1, by one program of the last kernel of a step, when all that read them have ended."""
    now = tl.load(positions + row, mask=row < rows, other=0)
    tl.debug_barrier()  # several threads may hold the same one
    tl.store(positions + row, now + 1, mask=row < rows)


@triton.jit
def _higher(best, best_ids, out, n, kept):
    """The largest so far and its id [LANES], and of out [OUTS, LANES], for the ids n [OUTS]; the first of several."""
    out = tl.where(kept[:, None], out, float("-inf"))
    highest = tl.max(out, 0)
    first = tl.min(tl.where(out == highest[None, :], n[:, None], 0x7FFFFFFF), 0)
    return tl.maximum(best, highest), tl.where(highest > best, first, best_ids)


@triton.jit
def normed_linear(
    x, gain, shift, weight, scales, bias, y, positions, most, most_ids, width, outs, eps,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, LAST: tl.constexpr, LANES: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y [R, outs] = activation(norm(x) W^T + b), x [R, D]. GATED: W has the gate's rows, then as many of the other's.

    LAST, of the head: most and most_ids [R, programs] are the largest of each program's logits and its id, and
    positions [R] += 1. Grid: (R / ROWS, up to ceil(outs / OUTS)): a program goes over every so-manieth tile.
    """
    x += tl.program_id(0) * ROWS * width
    y += (tl.program_id(0) * ROWS).to(tl.int64) * outs
    columns = tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    inside, step = columns < width, tl.num_programs(1) * OUTS
    n = tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    tile = tile_of(weight, n, columns, n < outs, inside, width)
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.zeros((PARTS, WIDE), tl.float32)
    if SHIFTED:
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    begin(EARLY)
    vector = _normed(tl.load(x + columns, mask=inside, other=0.0), gains, shifts, inside, width, eps, CENTRED)
    lanes = tl.arange(0, LANES)
    best, best_ids = tl.full((LANES,), float("-inf"), tl.float32), tl.zeros((LANES,), tl.int32)
    if LAST:
        if tl.program_id(1) == 0:
            _advance(positions + tl.program_id(0) * ROWS, lanes, ROWS)
    for first in range(tl.program_id(1) * OUTS, outs, step):
        n = first + tl.arange(0, OUTS)
        kept = n < outs
        later = tile_of(weight, n + step, columns, n + step < outs, inside, width)  # on its way while this one is used
        other = tile
        if GATED:
            other = tile_of(weight + tl.cast(outs, tl.int64) * width, n, columns, kept, inside, width)
        factor = scales_of(scales, n, kept, SCALED)
        other_factor = factor
        if GATED:
            other_factor = scales_of(scales + outs, n, kept, SCALED)
        added = tl.zeros((OUTS,), tl.float32)
        added_other = added
        if BIASED:
            added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
            if GATED:
                added_other = tl.load(bias + outs + n, mask=kept, other=0.0).to(tl.float32)
        for row in tl.static_range(ROWS):
            if ROWS > 1:
                vector = tl.load(x + row * width + columns, mask=inside, other=0.0)
                vector = _normed(vector, gains, shifts, inside, width, eps, CENTRED)
            out = _activated(times(tile, vector) * factor + added, ACTIVATION)
            if GATED:
                out *= times(other, vector) * other_factor + added_other
            tl.store(y + tl.cast(outs, tl.int64) * row + n, out, mask=kept)
            if LAST:
                of_row = tl.where((lanes == row)[None, :], out[:, None], float("-inf"))
                best, best_ids = _higher(best, best_ids, of_row, n, kept)
        tile = later
    if LAST:
        place = (tl.program_id(0) * ROWS + lanes) * tl.num_programs(1) + tl.program_id(1)
        tl.store(most + place, best, mask=lanes < ROWS)
        tl.store(most_ids + place, best_ids, mask=lanes < ROWS)


@triton.jit
def normed_rows_linear(
    x, gain, shift, weight, scales, bias, y, positions, most, most_ids, rows, width, outs, eps,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, LAST: tl.constexpr, LANES: tl.constexpr,
    OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`normed_linear` of all rows at once, at most LANES. Grid: (up to ceil(outs / OUTS),)."""
    row, columns = tl.arange(0, LANES), tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    inside, present, step = columns < width, row < rows, tl.num_programs(0) * OUTS
    n = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    tile = tile_of(weight, n, columns, n < outs, inside, width)
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.zeros((PARTS, WIDE), tl.float32)
    if SHIFTED:
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    begin(EARLY)
    real = inside[:, :, None] & present[None, None, :]
    vectors = tl.load(x + row[None, None, :] * width + columns[:, :, None], mask=real, other=0.0)
    if CENTRED:
        vectors = tl.where(real, vectors - (tl.sum(tl.sum(vectors, 1), 0) / width)[None, None, :], 0.0)
    shares = tl.rsqrt(tl.sum(tl.sum(vectors * vectors, 1), 0) / width + eps)
    vectors = vectors * shares[None, None, :] * gains[:, :, None] + shifts[:, :, None]
    best, best_ids = tl.full((LANES,), float("-inf"), tl.float32), tl.zeros((LANES,), tl.int32)
    if LAST:
        if tl.program_id(0) == 0:
            _advance(positions, row, rows)
    for first in range(tl.program_id(0) * OUTS, outs, step):
        n = first + tl.arange(0, OUTS)
        kept = n < outs
        later = tile_of(weight, n + step, columns, n + step < outs, inside, width)
        factor = scales_of(scales, n, kept, SCALED)
        added = tl.zeros((OUTS,), tl.float32)
        if BIASED:
            added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
        out = _activated(_products(tile, vectors) * factor[:, None] + added[:, None], ACTIVATION)
        if GATED:
            other = tile_of(weight + tl.cast(outs, tl.int64) * width, n, columns, kept, inside, width)
            added_other = tl.zeros((OUTS,), tl.float32)
            if BIASED:
                added_other = tl.load(bias + outs + n, mask=kept, other=0.0).to(tl.float32)
            other_factor = scales_of(scales + outs, n, kept, SCALED)
            out *= _products(other, vectors) * other_factor[:, None] + added_other[:, None]
        tl.store(y + row[None, :].to(tl.int64) * outs + n[:, None], out, mask=kept[:, None] & present[None, :])
        if LAST:
            best, best_ids = _higher(best, best_ids, out, n, kept)
        tile = later
    if LAST:
        place = row * tl.num_programs(0) + tl.program_id(0)
        tl.store(most + place, best, mask=present)
        tl.store(most_ids + place, best_ids, mask=present)


@triton.jit
def linear(
    hidden, weight, scales, bias, x, width, outs,
    SCALED: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, outs] += hidden W^T + b, hidden [R, width]. Grid: (R / ROWS, ceil(outs / OUTS))."""
    n = tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    hidden += tl.program_id(0) * ROWS * width
    x += tl.program_id(0) * ROWS * outs
    columns = tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    inside, kept = columns < width, n < outs
    tile = tile_of(weight, n, columns, kept, inside, width)
    factor = scales_of(scales, n, kept, SCALED)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
    begin(EARLY)
    next_one = tl.load(hidden + columns, mask=inside, other=0.0)
    next_before = tl.load(x + n, mask=kept, other=0.0)
    for row in tl.static_range(ROWS):
        vector, before = next_one, next_before
        if row + 1 < ROWS:
            next_one = tl.load(hidden + (row + 1) * width + columns, mask=inside, other=0.0)
            next_before = tl.load(x + (row + 1) * outs + n, mask=kept, other=0.0)
        tl.store(x + row * outs + n, before + times(tile, vector) * factor + added, mask=kept)


@triton.jit
def rows_linear(
    hidden, weight, scales, bias, x, rows, width, outs,
    SCALED: tl.constexpr, BIASED: tl.constexpr,
    LANES: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`linear` of all rows at once, at most LANES. Grid: (ceil(outs / OUTS),)."""
    row, columns = tl.arange(0, LANES), tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    n, inside = tl.program_id(0) * OUTS + tl.arange(0, OUTS), columns < width
    tile = tile_of(weight, n, columns, n < outs, inside, width)
    factor = scales_of(scales, n, n < outs, SCALED)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=n < outs, other=0.0).to(tl.float32)
    begin(EARLY)
    place, kept = x + row[None, :] * outs + n[:, None], (n < outs)[:, None] & (row < rows)[None, :]
    before = tl.load(place, mask=kept, other=0.0)
    real = inside[:, :, None] & (row < rows)[None, None, :]
    vectors = tl.load(hidden + row[None, None, :] * width + columns[:, :, None], mask=real, other=0.0)
    tl.store(place, before + _products(tile, vectors) * factor[:, None] + added[:, None], mask=kept)
