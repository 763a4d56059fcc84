"""The cache of pretokens and their ids, which threads share without a lock.

A slot is 32 bytes: the pretoken itself (up to 15 bytes and its length), and its ids (up to three and their number).
More ids, and longer pretokens, are in the arena, to which the slot points. Slots are written once: a thread claims an
empty one, fills it, and publishes it with its second word; a reader compares that word first. So a fork in the middle
of a write costs one slot.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.compiled import compiled, kernel
from lm_tokenizer._kernels.intrinsics import (
    claim,
    copy_16,
    fetch_add,
    item_u32,
    load_acquire,
    load_u8,
    load_u64,
    store_release,
    store_u32,
    store_u64,
)
from lm_tokenizer._kernels.scan import ALL, U0

SLOT = 32
INLINE_BYTES, INLINE_IDS = 15, 3
PROBES = 8
BUSY = ALL
K1, K2, K3 = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
U29, U32, U56, LONG = np.uint64(29), np.uint64(32), np.uint64(56), np.uint64(1 << 63)
LOW_MASKS = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(16)], np.uint64)
HIGH_MASKS = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(16)], np.uint64)


class Cache(NamedTuple):
    """Pretokens and their ids.

    Attributes:
        table: address of the slots, a multiple of 64, and of PROBES more than can be addressed.
        shift: 64 less the bits of their number. arena: address of the arena. room: its bytes.
        counts: address of two int64, slots taken and bytes taken of the arena.
    """

    table: int
    shift: int
    arena: int
    room: int
    counts: int


@compiled
def key_of(at, length, readable):
    """The two words that stand for a pretoken of at most INLINE_BYTES bytes: its bytes, and its length on top."""
    if at + 16 <= readable:
        low = load_u64(at) & LOW_MASKS[length]
        high = load_u64(at + 8) & HIGH_MASKS[length]
    else:
        low = high = U0
        for i in range(length):
            byte = np.uint64(load_u8(at + i)) << np.uint64((i & 7) << 3)
            if i < 8:
                low |= byte
            else:
                high |= byte
    return low, high | np.uint64(length) << U56


@compiled
def key_of_long(at, length):
    """The two words that stand for a longer pretoken: a hash, and its length; that its bytes are equal is checked."""
    value = np.uint64(length) * K3
    for i in range(0, length - 7, 8):
        value = (value ^ load_u64(at + i)) * K1
        value ^= value >> U29
    value = (value ^ load_u64(at + length - 8)) * K2
    return value ^ value >> U32, LONG | np.uint64(length)


@compiled
def slot_of(low, high, cache):
    """Address of the first slot in which a key may be."""
    return cache.table + (np.int64(((low ^ (high * K2)) * K1) >> np.uint64(cache.shift)) << 5)


@compiled
def same_bytes(a, b, length):
    """Whether `length` >= 8 bytes are equal."""
    for i in range(0, length - 7, 8):
        if load_u64(a + i) != load_u64(b + i):
            return False
    return load_u64(a + length - 8) == load_u64(b + length - 8)


@compiled
def keep(at, length, low, high, slot, cache, ids, n):
    """Put a pretoken and its ids into the cache, if there is room."""
    first = load_u64(ids)
    second = np.uint64(item_u32(ids, 2))
    if n > INLINE_IDS or length > INLINE_BYTES:
        taken = ((n + 3) & ~3) * 4 + (length + 8 if length > INLINE_BYTES else 0)
        offset = fetch_add(cache.counts + 8, taken)
        if offset + taken > cache.room:
            return
        first = np.uint64(offset)
        place = cache.arena + offset
        for i in range(n):
            store_u32(place + (i << 2), item_u32(ids, i))
        if length > INLINE_BYTES:
            place += ((n + 3) & ~3) * 4
            for i in range(0, length - 7, 8):
                store_u64(place + i, load_u64(at + i))
            store_u64(place + length - 8, load_u64(at + length - 8))
    for p in range(PROBES):
        place = slot + p * SLOT
        if load_acquire(place + 8) == U0 and claim(place + 8, BUSY):
            store_u64(place, low)
            store_u64(place + 16, first)
            store_u64(place + 24, second | np.uint64(n) << U32)
            store_release(place + 8, high)
            fetch_add(cache.counts, 1)
            return


@kernel("encoding")
def rehash(source: Cache, target: Cache):
    """Copy the published slots of one cache into the larger table of another."""
    last = source.table + (SLOT << (64 - source.shift))
    for old in range(source.table, last, SLOT):
        high = load_acquire(old + 8)
        if high == U0 or high == BUSY:
            continue
        new = slot_of(load_u64(old), high, target)
        for p in range(PROBES):
            place = new + p * SLOT
            if load_u64(place + 8) == U0:
                copy_16(place, old)
                copy_16(place + 16, old + 16)
                fetch_add(target.counts, 1)
                break
