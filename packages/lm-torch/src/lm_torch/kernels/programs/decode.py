"""The step of decoding for a few rows: products of a matrix with a vector or some, and what stands between them.

    embed -> n_layers x [ normed_linear -> attend -> mixed_linear -> normed_linear -> linear ] -> normed_linear

What a step takes is reading the weights once. So a program holds some rows of a matrix, which it loads before anything
else, and goes over the rows of text with them; norms, the activation, the sums of attention and the residual stream are
made on the way, in float32, by every program for itself: a vector is read faster than a kernel is started.

EARLY (programmatic dependent launch, from compute capability 9.0 on): a kernel begins before the one in front of it has
ended, loads its weights, and waits for it only then.

Axes: R rows, D model, F feed-forward, N heads, K kv heads, H head, S cached time, C chunks of it.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _begin(EARLY: tl.constexpr):
    """What is loaded before does not depend on the kernel in front; what is loaded after may."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def _tile(weight, outs, n, columns, width, N: tl.constexpr):
    """[n, columns] of a matrix of `outs` rows; 0 outside."""
    inside = (n < outs)[:, None] & (columns < width)[None, :]
    return tl.load(weight + n.to(tl.int64)[:, None] * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _times(tile, x):
    """The tile times a vector, in float32."""
    return tl.sum(tile.to(tl.float32) * x[None, :], 1)


@triton.jit
def _normed(x, gain, shift, inside, width, eps, CENTRED: tl.constexpr):
    """LayerNorm (CENTRED) or RMSNorm of a vector."""
    if CENTRED:
        x = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    return x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * gain + shift


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
    PLACED: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, D] = table[ids] (+ position_table[positions], if PLACED; `most` is the last of them). Grid: (R,)."""
    row, columns = tl.program_id(0), tl.arange(0, COLUMNS)
    inside = columns < width
    _begin(EARLY)
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
    _begin(EARLY)
    at = tl.load(turn)
    tl.store(drawn + at * stride + lanes, tl.load(chosen + lanes, mask=inside), mask=inside)
    tl.store(positions + lanes, tl.load(positions + lanes, mask=inside) + 1, mask=inside)
    tl.store(turn, at + 1)


@triton.jit
def normed_linear(
    x, gain, shift, weight, bias, y, width, outs, eps,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, BIASED: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y [R, outs] = activation(norm(x) W^T + b), x [R, D]. GATED: W has the gate's rows, then as many of the other's.

    Grid: (ceil(outs / OUTS),).
    """
    n, columns = tl.program_id(0) * OUTS + tl.arange(0, OUTS), tl.arange(0, COLUMNS)
    inside, kept = columns < width, n < outs
    tile = _tile(weight, outs, n, columns, width, OUTS)
    other = tile
    if GATED:
        other = _tile(weight + outs.to(tl.int64) * width, outs, n, columns, width, OUTS)
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.zeros((COLUMNS,), tl.float32)
    if SHIFTED:
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    added = tl.zeros((OUTS,), tl.float32)
    added_other = added
    if BIASED:
        added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
        if GATED:
            added_other = tl.load(bias + outs + n, mask=kept, other=0.0).to(tl.float32)
    _begin(EARLY)
    for row in tl.static_range(ROWS):
        vector = tl.load(x + row * width + columns, mask=inside, other=0.0)
        vector = _normed(vector, gains, shifts, inside, width, eps, CENTRED)
        out = _activated(_times(tile, vector) + added, ACTIVATION)
        if GATED:
            out *= _times(other, vector) + added_other
        tl.store(y + row * outs.to(tl.int64) + n, out, mask=kept)


@triton.jit
def _turned(first, h, half, cosines, sines, at, WIDTH: tl.constexpr, ROPE: tl.constexpr):
    """The head of WIDTH elements at `first`; with ROPE its element i turned with i + H/2 by the angles `at`."""
    inside = h < WIDTH
    own = tl.load(first + h, mask=inside, other=0.0)
    if ROPE:
        low = h < half
        pair = tl.load(first + tl.where(low, h + half, h - half), mask=inside, other=0.0)
        place = at * half + tl.where(low, h, h - half)
        cos = tl.load(cosines + place, mask=inside, other=0.0)
        sin = tl.load(sines + place, mask=inside, other=0.0)
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
    _begin(EARLY)
    position = tl.minimum(tl.load(positions + row), most).to(tl.int32)
    first = chunk * CHUNK
    if first <= position:
        times, inside = first + tl.arange(0, CHUNK), h < WIDTH
        qkv += row * (heads + 2 * kv_heads) * WIDTH
        cache = pair.to(tl.int64) * (most + 1) * WIDTH
        at = cache + times[:, None] * WIDTH + h[None, :]
        before = (times < position)[:, None] & inside[None, :]
        element = keys.dtype.element_ty
        new_key = _turned(qkv + (heads + head) * WIDTH, h, WIDTH // 2, cosines, sines, position, WIDTH, ROPE).to(
            element
        )
        new_value = tl.load(qkv + (heads + kv_heads + head) * WIDTH + h, mask=inside, other=0.0).to(element)
        is_new = (times == position)[:, None]
        k = tl.where(is_new, new_key[None, :], tl.load(keys + at, mask=before, other=0.0)).to(tl.float32)
        v = tl.where(is_new, new_value[None, :], tl.load(values + at, mask=before, other=0.0)).to(tl.float32)
        if position < first + CHUNK:
            tl.store(keys + cache + position * WIDTH + h, new_key, mask=inside)
            tl.store(values + cache + position * WIDTH + h, new_value, mask=inside)
        for i in tl.static_range(GROUP):
            query = head * GROUP + i
            q = _turned(qkv + query * WIDTH, h, WIDTH // 2, cosines, sines, position, WIDTH, ROPE)
            scores = tl.where(times <= position, tl.sum(q[None, :] * k, 1) * scale, float("-inf"))
            largest = tl.max(scores, 0)
            weights = tl.exp(scores - largest)
            place = (row * heads + query) * chunks + chunk
            tl.store(mixed + place * WIDTH + h, tl.sum(weights[:, None] * v, 0), mask=inside)
            tl.store(sums + 2 * place, largest)
            tl.store(sums + 2 * place + 1, tl.sum(weights, 0))


@triton.jit
def mixed_linear(
    mixed, sums, positions, weight, bias, x, heads, most, chunks,
    BIASED: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, D] += attention W^T + b, from what `attend` left of each chunk. Grid: (ceil(D / OUTS),)."""
    width = heads * WIDTH
    n, columns = tl.program_id(0) * OUTS + tl.arange(0, OUTS), tl.arange(0, COLUMNS)
    inside, kept = columns < width, n < width
    tile = _tile(weight, width, n, columns, width, OUTS)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
    head, h = columns // WIDTH, columns % WIDTH
    _begin(EARLY)
    for row in tl.static_range(ROWS):
        position = tl.minimum(tl.load(positions + row), most).to(tl.int32)
        place = (row * heads + head) * chunks
        largest = tl.load(sums + 2 * place, mask=inside, other=0.0)
        total = tl.load(sums + 2 * place + 1, mask=inside, other=1.0)
        vector = tl.load(mixed + place * WIDTH + h, mask=inside, other=0.0)
        for _ in range(1, position // CHUNK + 1):
            place += 1
            score = tl.load(sums + 2 * place, mask=inside, other=0.0)
            larger = tl.maximum(largest, score)
            old, new = tl.exp(largest - larger), tl.exp(score - larger)
            total = total * old + new * tl.load(sums + 2 * place + 1, mask=inside, other=1.0)
            vector = vector * old + new * tl.load(mixed + place * WIDTH + h, mask=inside, other=0.0)
            largest = larger
        out = _times(tile, vector / total) + added
        out += tl.load(x + row * width + n, mask=kept, other=0.0)
        tl.store(x + row * width + n, out, mask=kept)


@triton.jit
def linear(
    hidden, weight, bias, x, width, outs,
    BIASED: tl.constexpr, ROWS: tl.constexpr, OUTS: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x [R, outs] += hidden W^T + b, hidden [R, width]. Grid: (ceil(outs / OUTS),)."""
    n, columns = tl.program_id(0) * OUTS + tl.arange(0, OUTS), tl.arange(0, COLUMNS)
    inside, kept = columns < width, n < outs
    tile = _tile(weight, outs, n, columns, width, OUTS)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
    _begin(EARLY)
    for row in tl.static_range(ROWS):
        out = _times(tile, tl.load(hidden + row * width + columns, mask=inside, other=0.0)) + added
        out += tl.load(x + row * outs + n, mask=kept, other=0.0)
        tl.store(x + row * outs + n, out, mask=kept)
