"""The hash of `lm_core.reference.dropout` in Triton, and the bits of the masks that attention reads."""

import triton
import triton.language as tl

from lm_core.rng import GOLDEN

_GOLDEN = tl.constexpr(GOLDEN)


@triton.jit
def mix(x):
    """`lm_core.reference.dropout.mix` on uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def site_key(key, site):
    """Term that a site adds to the hash of an element: key is where the step's key lies, as int64."""
    return mix(tl.load(key).to(tl.uint32) + tl.cast(site, tl.uint32) * tl.full((), _GOLDEN, tl.uint32))


@triton.jit(do_not_specialize=["site"])
def attention_bits(bits, keys, site, pairs, length, words, THRESHOLD: tl.constexpr, ROWS: tl.constexpr):
    """Which attention weights [pairs, T, T] stay, 32 keys a word: bits [pairs, words, T], int32.

    A thread hashes the 32 elements of its word, so that nothing is exchanged. Words that hold only keys which a causal
    query does not see are left as they are. Each of the keys is for the next `pairs` pairs, which count from 0 again,
    or on from the parts of the batch before theirs (`lm_torch.dropout.part_key`).
    Grid: (all pairs, ceil(T / 32), ceil(T / ROWS)).
    """
    pair, word, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if (block + 1) * ROWS > word * 32:
        rows = block * ROWS + tl.arange(0, ROWS)
        added = site_key(keys + pair // pairs, site)
        before = (tl.load(keys + pair // pairs) >> 32).to(tl.uint32) * tl.cast(pairs, tl.uint32)
        first = ((before + (pair % pairs).to(tl.uint32)) * length + rows.to(tl.uint32)) * length + word * 32
        found = tl.zeros((ROWS,), tl.uint32)
        for i in tl.static_range(32):
            stays = mix(mix(first + i) + added) >= tl.full((), THRESHOLD, tl.uint32)
            found |= stays.to(tl.uint32) << i
        at = bits + (pair.to(tl.int64) * words + word) * length + rows
        tl.store(at, found.to(tl.int32, bitcast=True), mask=rows < length)


@triton.jit
def load_bits(bits, pair, words, length, rows, start, COLUMNS: tl.constexpr, AXIS: tl.constexpr):
    """Whether the weights of rows at the keys from `start` on stay: bool [rows, COLUMNS] (AXIS 1) or its transpose.

    `start` and COLUMNS are multiples of 32.
    """
    at = bits + (pair.to(tl.int64) * words + start // 32) * length + rows
    column = tl.expand_dims(tl.arange(0, COLUMNS), 1 - AXIS)
    word = tl.expand_dims(tl.load(at, mask=rows < length, other=0), AXIS)
    for i in tl.static_range(1, COLUMNS // 32):
        later = tl.expand_dims(tl.load(at + i * length, mask=rows < length, other=0), AXIS)
        word = tl.where(column >= 32 * i, later, word)
    return ((word >> (column % 32)) & 1) != 0
