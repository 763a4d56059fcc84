"""The step of decoding for a few rows: products of a matrix with a vector or some, and what stands between them.

    embed -> n_layers x layer -> normed_linear, then programs.choice and note
    layer:  normed_linear -> attend -> mixed_linear -> normed_linear -> linear

What a step takes is reading the weights once, and waiting: of each kernel, for the one in front of it. So a program
holds some rows of a matrix, which it loads before anything else, and goes over the rows of text with them; norms, the
activation, the sums of attention and the residual stream are made on the way, in float32, by every program for itself.

EARLY (programmatic dependent launch, from compute capability 9.0 on): a kernel begins before the one in front of it has
ended, loads its weights, and waits for it only then. `embed` alone begins late: when all before it has ended. So what a
step before has written, cache and positions, may be loaded early too.

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
def _tile(weight, n, columns, kept, inside, width):
    """[PARTS, n, WIDE] of a matrix; 0 outside."""
    at = n.to(tl.int64)[None, :, None] * width + columns[:, None, :]
    return tl.load(weight + at, mask=kept[None, :, None] & inside[:, None, :], other=0.0)


@triton.jit
def _times(tile, x):
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
    high = x.to(tile.dtype)
    low = (x - high.to(tl.float32)).to(tile.dtype)
    if _INTERPRETED:  # numpy has no bfloat16
        tile, high, low = tile.to(tl.float32), high.to(tl.float32), low.to(tl.float32)
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
def embed(
    ids, table, position_table, positions, x, width, most,
    PLACED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """x [R, D] = table[ids] (+ position_table[positions], if PLACED; `most` is the last of them). Grid: (R,)."""
    row, columns = tl.program_id(0), tl.arange(0, COLUMNS)
    inside = columns < width
    chosen = tl.load(ids + row)
    value = tl.load(table + chosen * width + columns, mask=inside, other=0.0).to(tl.float32)
    if PLACED:
        at = tl.minimum(tl.load(positions + row), most)
        value += tl.load(position_table + at * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * width + columns, value, mask=inside)


@triton.jit
def note(chosen, drawn, turn, positions, stride, ROWS: tl.constexpr, LANES: tl.constexpr, EARLY: tl.constexpr):
    """drawn[turn, :R] = chosen [R], turn += 1, positions [R] += 1. Grid: (1,), of one warp, so that none overtakes."""
    lanes = tl.arange(0, LANES)
    inside = lanes < ROWS
    begin(EARLY)
    at = tl.load(turn)
    tl.store(drawn + at * stride + lanes, tl.load(chosen + lanes, mask=inside), mask=inside)
    tl.store(positions + lanes, tl.load(positions + lanes, mask=inside) + 1, mask=inside)
    tl.store(turn, at + 1)


@triton.jit
def normed_linear(
    x, gain, shift, weight, bias, y, width, outs, eps,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, BIASED: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y [R, outs] = activation(norm(x) W^T + b), x [R, D]. GATED: W has the gate's rows, then as many of the other's.

    Grid: (R / ROWS, up to ceil(outs / OUTS)): a program goes over every so-manieth tile.
    """
    x += tl.program_id(0) * ROWS * width
    y += (tl.program_id(0) * ROWS).to(tl.int64) * outs
    columns = tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    inside, step = columns < width, tl.num_programs(1) * OUTS
    n = tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    tile = _tile(weight, n, columns, n < outs, inside, width)
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.zeros((PARTS, WIDE), tl.float32)
    if SHIFTED:
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    begin(EARLY)
    vector = _normed(tl.load(x + columns, mask=inside, other=0.0), gains, shifts, inside, width, eps, CENTRED)
    for first in range(tl.program_id(1) * OUTS, outs, step):
        n = first + tl.arange(0, OUTS)
        kept = n < outs
        later = _tile(weight, n + step, columns, n + step < outs, inside, width)  # on its way while this one is used
        other = tile
        if GATED:
            other = _tile(weight + outs.to(tl.int64) * width, n, columns, kept, inside, width)
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
            out = _activated(_times(tile, vector) + added, ACTIVATION)
            if GATED:
                out *= _times(other, vector) + added_other
            tl.store(y + row * outs.to(tl.int64) + n, out, mask=kept)
        tile = later


@triton.jit
def normed_rows_linear(
    x, gain, shift, weight, bias, y, rows, width, outs, eps,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, BIASED: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    LANES: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`normed_linear` of all rows at once, at most LANES. Grid: (up to ceil(outs / OUTS),)."""
    row, columns = tl.arange(0, LANES), tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    inside, present, step = columns < width, row < rows, tl.num_programs(0) * OUTS
    n = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    tile = _tile(weight, n, columns, n < outs, inside, width)
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.zeros((PARTS, WIDE), tl.float32)
    if SHIFTED:
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    begin(EARLY)
    real = inside[:, :, None] & present[None, None, :]
    vectors = tl.load(x + row[None, None, :] * width + columns[:, :, None], mask=real, other=0.0)
    if CENTRED:
        vectors = tl.where(real, vectors - (tl.sum(tl.sum(vectors, 1), 0) / width)[None, None, :], 0.0)
    scales = tl.rsqrt(tl.sum(tl.sum(vectors * vectors, 1), 0) / width + eps)
    vectors = vectors * scales[None, None, :] * gains[:, :, None] + shifts[:, :, None]
    for first in range(tl.program_id(0) * OUTS, outs, step):
        n = first + tl.arange(0, OUTS)
        kept = n < outs
        later = _tile(weight, n + step, columns, n + step < outs, inside, width)
        added = tl.zeros((OUTS,), tl.float32)
        if BIASED:
            added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
        out = _activated(_products(tile, vectors) + added[:, None], ACTIVATION)
        if GATED:
            other = _tile(weight + outs.to(tl.int64) * width, n, columns, kept, inside, width)
            added_other = tl.zeros((OUTS,), tl.float32)
            if BIASED:
                added_other = tl.load(bias + outs + n, mask=kept, other=0.0).to(tl.float32)
            out *= _products(other, vectors) + added_other[:, None]
        tl.store(y + row[None, :].to(tl.int64) * outs + n[:, None], out, mask=kept[:, None] & present[None, :])
        tile = later


@triton.jit
def _turned(first, h, half, cos, sin, WIDTH: tl.constexpr, ROPE: tl.constexpr):
    """The head of WIDTH elements at `first`; with ROPE its element i turned with i + H/2."""
    own = tl.load(first + h, mask=h < WIDTH, other=0.0)
    if ROPE:
        low = h < half
        pair = tl.load(first + tl.where(low, h + half, h - half), mask=h < WIDTH, other=0.0)
        own = own * cos + tl.where(low, -pair, pair) * sin
    return own


@triton.jit
def attend(
    qkv, keys, values, positions, cosines, sines, mixed, sums, heads, kv_heads, most, chunks, scale,
    WIDTH: tl.constexpr, HIGH: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, ROPE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Attention of one query of each head over a chunk of the keys, and the new key and value into their caches.

    qkv [R, (N + 2 K) H]; keys and values [R, K, S, H], of which S - 1 = `most`. Of each chunk that has a key to see:
    mixed [R, N, C, H], the values under weights that are not divided by their sum; sums [R, N, C, 2], the largest score
    and the sum under it. Grid: (R K, C).
    """
    pair, chunk, h = tl.program_id(0), tl.program_id(1), tl.arange(0, HIGH)
    row, head = pair // kv_heads, pair % kv_heads
    position = tl.minimum(tl.load(positions + row), most).to(tl.int32)
    first, inside, half = chunk * CHUNK, h < WIDTH, WIDTH // 2
    times = first + tl.arange(0, CHUNK)
    cache = pair.to(tl.int64) * (most + 1) * WIDTH
    at = cache + times[:, None] * WIDTH + h[None, :]
    before = (times < position)[:, None] & inside[None, :]
    old_keys = tl.load(keys + at, mask=before, other=0.0)
    old_values = tl.load(values + at, mask=before, other=0.0)
    cos, sin = tl.zeros((HIGH,), tl.float32), tl.zeros((HIGH,), tl.float32)
    if ROPE:
        place = position * half + tl.where(h < half, h, h - half)
        cos = tl.load(cosines + place, mask=inside, other=0.0)
        sin = tl.load(sines + place, mask=inside, other=0.0)
    begin(EARLY)
    if first <= position:
        qkv += row * (heads + 2 * kv_heads) * WIDTH
        element = keys.dtype.element_ty
        next_query = _turned(qkv + head * GROUP * WIDTH, h, half, cos, sin, WIDTH, ROPE)
        new_key = _turned(qkv + (heads + head) * WIDTH, h, half, cos, sin, WIDTH, ROPE).to(element)
        new_value = tl.load(qkv + (heads + kv_heads + head) * WIDTH + h, mask=inside, other=0.0).to(element)
        is_new = (times == position)[:, None]
        k = tl.where(is_new, new_key[None, :], old_keys).to(tl.float32)
        v = tl.where(is_new, new_value[None, :], old_values).to(tl.float32)
        for i in tl.static_range(GROUP):
            query, q = head * GROUP + i, next_query
            if i + 1 < GROUP:  # on its way while this one is worked on
                next_query = _turned(qkv + (query + 1) * WIDTH, h, half, cos, sin, WIDTH, ROPE)
            scores = tl.where(times <= position, tl.sum(q[None, :] * k, 1) * scale, float("-inf"))
            highest = tl.max(scores, 0)
            weights = tl.exp(scores - highest)
            where = (row * heads + query) * chunks + chunk
            tl.store(mixed + where * WIDTH + h, tl.sum(weights[:, None] * v, 0), mask=inside)
            tl.store(sums + 2 * where, highest)
            tl.store(sums + 2 * where + 1, tl.sum(weights, 0))
        if position < first + CHUNK:
            tl.store(keys + cache + position * WIDTH + h, new_key, mask=inside)
            tl.store(values + cache + position * WIDTH + h, new_value, mask=inside)


@triton.jit
def mixed_linear(
    mixed, sums, positions, weight, bias, x, heads, most, chunks,
    BIASED: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, D] += attention W^T + b, from what `attend` left of each chunk; a part is a head.

    Grid: (R, ceil(D / OUTS)).
    """
    width = heads * WIDTH
    row, n = tl.program_id(0), tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    head, h = tl.arange(0, PARTS), tl.arange(0, WIDE)
    present, kept = head < heads, n < width
    inside = present[:, None] & (h < WIDTH)[None, :]
    tile = _tile(weight, n, head[:, None] * WIDTH + h[None, :], kept, inside, width)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
    position = tl.minimum(tl.load(positions + row), most).to(tl.int32)
    begin(EARLY)
    before = tl.load(x + row * width + n, mask=kept, other=0.0)
    place = (row * heads + head) * chunks
    highest = tl.load(sums + 2 * place, mask=present, other=0.0)
    total = tl.load(sums + 2 * place + 1, mask=present, other=1.0)
    vector = tl.load(mixed + place[:, None] * WIDTH + h[None, :], mask=inside, other=0.0)
    for _ in range(1, position // CHUNK + 1):
        place += 1
        score = tl.load(sums + 2 * place, mask=present, other=0.0)
        share = tl.load(sums + 2 * place + 1, mask=present, other=1.0)
        part = tl.load(mixed + place[:, None] * WIDTH + h[None, :], mask=inside, other=0.0)
        higher = tl.maximum(highest, score)
        old, new = tl.exp(highest - higher), tl.exp(score - higher)
        total = total * old + share * new
        vector = vector * old[:, None] + part * new[:, None]
        highest = higher
    tl.store(x + row * width + n, before + _times(tile, vector / total[:, None]) + added, mask=kept)


@triton.jit
def linear(
    hidden, weight, bias, x, width, outs,
    BIASED: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, outs] += hidden W^T + b, hidden [R, width]. Grid: (R / ROWS, ceil(outs / OUTS))."""
    n = tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    hidden += tl.program_id(0) * ROWS * width
    x += tl.program_id(0) * ROWS * outs
    columns = tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    inside, kept = columns < width, n < outs
    tile = _tile(weight, n, columns, kept, inside, width)
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
        tl.store(x + row * outs + n, before + _times(tile, vector) + added, mask=kept)


@triton.jit
def rows_linear(
    hidden, weight, bias, x, rows, width, outs,
    BIASED: tl.constexpr,
    LANES: tl.constexpr, OUTS: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """`linear` of all rows at once, at most LANES. Grid: (ceil(outs / OUTS),)."""
    row, columns = tl.arange(0, LANES), tl.arange(0, PARTS)[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
    n, inside = tl.program_id(0) * OUTS + tl.arange(0, OUTS), columns < width
    tile = _tile(weight, n, columns, n < outs, inside, width)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=n < outs, other=0.0).to(tl.float32)
    begin(EARLY)
    place, kept = x + row[None, :] * outs + n[:, None], (n < outs)[:, None] & (row < rows)[None, :]
    before = tl.load(place, mask=kept, other=0.0)
    real = inside[:, :, None] & (row < rows)[None, None, :]
    vectors = tl.load(hidden + row[None, None, :] * width + columns[:, :, None], mask=real, other=0.0)
    tl.store(place, before + _products(tile, vectors) + added[:, None], mask=kept)
