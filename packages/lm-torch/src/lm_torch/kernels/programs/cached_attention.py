"""Attention of a decoding step over the cache, split over keys, and the product behind it. How they begin: `decode`.

Axes: R rows, D model, N heads, K kv heads, H head, S cached time, C chunks of it.
"""

import triton
import triton.language as tl

from lm_torch.kernels.programs.decode import begin, scales_of, tile_of, times


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
    if first <= position:  # others end at once, and leave their registers to what starts early
        begin(EARLY)
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
def _chunk(mixed, sums, place, h, seen, WIDTH: tl.constexpr):
    """What `attend` left of a chunk at `place` [N], for the heads `seen`: largest score, sum, values [N, H]."""
    score = tl.load(sums + 2 * place, mask=seen, other=0.0)
    share = tl.load(sums + 2 * place + 1, mask=seen, other=1.0)
    part = tl.load(mixed + place[:, None] * WIDTH + h[None, :], mask=seen[:, None] & (h < WIDTH)[None, :], other=0.0)
    return score, share, part


@triton.jit
def mixed_linear(
    mixed, sums, positions, weight, scales, bias, x, heads, most, chunks,
    AHEAD: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
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
    tile = tile_of(weight, n, head[:, None] * WIDTH + h[None, :], kept, inside, width)
    factor = scales_of(scales, n, kept, SCALED)
    added = tl.zeros((OUTS,), tl.float32)
    if BIASED:
        added = tl.load(bias + n, mask=kept, other=0.0).to(tl.float32)
    position = tl.minimum(tl.load(positions + row), most).to(tl.int32)
    begin(EARLY)
    before = tl.load(x + row * width + n, mask=kept, other=0.0)
    place = (row * heads + head) * chunks
    highest, total, vector = _chunk(mixed, sums, place, h, present, WIDTH)
    full = position // CHUNK
    left = tl.where(present, full, 0)
    place += 1
    score, share, part = highest, total, vector
    if AHEAD:
        score, share, part = _chunk(mixed, sums, place, h, left > 0, WIDTH)
    for chunk in range(1, full + 1):
        next_score, next_share, next_part = score, share, part
        if AHEAD:  # the next one is on its way while this one is used
            next_score, next_share, next_part = _chunk(mixed, sums, place + 1, h, left > chunk, WIDTH)
        else:
            score, share, part = _chunk(mixed, sums, place, h, present, WIDTH)
        higher = tl.maximum(highest, score)
        old, new = tl.exp(highest - higher), tl.exp(score - higher)
        total = total * old + share * new
        vector = vector * old[:, None] + part * new[:, None]
        highest, score, share, part = higher, next_score, next_share, next_part
        place += 1
    out = times(tile, vector / total[:, None]) * factor + added
    tl.store(x + row * width + n, before + out, mask=kept)
