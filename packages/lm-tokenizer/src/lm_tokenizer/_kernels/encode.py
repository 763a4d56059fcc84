"""Encoding: pieces -> ids, by a cache that threads share, and by merging what it does not hold.

    starts --keys--> slots, prefetched --compare--> ids
                                  '--miss--> merge --> publish

A slot is 32 bytes: the piece itself (up to 15 bytes and its length), and its ids (up to three and their number). More
ids, and longer pieces, are in the arena, to which the slot points. Slots are written once and never changed: a thread
claims an empty one, fills it, and publishes it with its second word; a reader compares that word first. So no lock is
needed, and a fork in the middle of a write costs one slot.

A long piece is first cut where no token of the vocabulary holds the two bytes on both sides: no merge reaches across.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import (
    claim,
    copy_16,
    copy_ids_u16,
    copy_ids_u32,
    fetch_add,
    in_use,
    item_u32,
    item_u64,
    load_acquire,
    load_u8,
    load_u32,
    load_u64,
    prefetch,
    set_item_u64,
    store_release,
    store_u16,
    store_u32,
    store_u64,
)
from lm_tokenizer._kernels.merge import SHORT, is_run, merge_long, merge_run, merge_short
from lm_tokenizer._kernels.scan import ALL, GROUP, INVALID, MASKS, SLACK, STATES, U0, scan_gpt2

SLOT = 32
INLINE_BYTES, INLINE_IDS = 15, 3
LONGEST_KEPT = 512
"""Bytes of the longest piece that is kept in the cache."""
PROBES = 8
OUT_SLACK = 4
"""Elements that may be written past the last id."""
UNORDERED = -2
"""A long piece and merges that are not `ordered`: the kernels do not encode it."""
BATCH = GROUP * 64 + SLACK

BUSY = ALL
K1, K2, K3 = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
U29, U32, U56, LONG = np.uint64(29), np.uint64(32), np.uint64(56), np.uint64(1 << 63)
LOW_MASKS = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(16)], np.uint64)
HIGH_MASKS = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(16)], np.uint64)


class Cache(NamedTuple):
    """Pieces and their ids.

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


class Scratch(NamedTuple):
    """What one thread works on: the addresses of its arrays."""

    state: int
    masks: int
    padded: int
    starts: int
    lows: int
    highs: int
    slots: int
    ids: int
    queue: int


SCRATCH_BYTES = Scratch(8 * STATES, 8 * MASKS, 64, 8 * BATCH, 8 * BATCH, 8 * BATCH, 8 * BATCH, 4 * SHORT, 4 * SHORT)


@compiled
def key_of(at, length, readable):
    """The two words that stand for a piece of at most INLINE_BYTES bytes: its bytes, and its length on top."""
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
    """The two words that stand for a longer piece: a hash, and its length; that its bytes are equal is checked."""
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
def store_ids(out, ids, n, wide):
    """Append `n` ids at the address `out`; the address after them."""
    if wide:
        for i in range(n):
            store_u32(out + (i << 2), item_u32(ids, i))
        return out + (n << 2)
    for i in range(n):
        store_u16(out + (i << 1), item_u32(ids, i))
    return out + (n << 1)


@compiled
def copy_many(out, source, n, wide):
    """Append `n` ids from the arena; the address after them."""
    for i in range(0, n, 4):
        if wide:
            copy_ids_u32(out + (i << 2), source + (i << 2))
        else:
            copy_ids_u16(out + (i << 1), source + (i << 2))
    return out + (n << 2 if wide else n << 1)


@compiled
def keep(at, length, low, high, slot, cache, ids, n):
    """Put a piece and its ids into the cache, if there is room."""
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


@compiled
def encode_unknown(at, length, low, high, slot, model, cache, scratch, out, wide):
    """Merge a piece that the cache does not hold, and keep it."""
    if length <= SHORT:
        n = merge_short(at, length, model, scratch.ids, scratch.queue)
        keep(at, length, low, high, slot, cache, scratch.ids, n)
        return store_ids(out, scratch.ids, n, wide)
    if not model.ordered:
        return UNORDERED
    memory = np.empty(length, np.uint32)
    ids = np.int64(memory.ctypes.data)
    n = merge_run(np.int64(load_u8(at)), length, model, ids) if is_run(at, length) else -1
    if n < 0:
        n = merge_long(at, length, model, ids)
    if length <= LONGEST_KEPT:
        keep(at, length, low, high, slot, cache, ids, n)
    out = store_ids(out, ids, n, wide)
    in_use(memory)
    return out


@compiled
def encode_long(at, length, readable, model, cache, scratch, out, wide):
    """Encode a piece of more than INLINE_BYTES bytes: cut it where no token reaches across, look up, merge."""
    end = at + length
    while at < end:
        stop = at + 1
        before = np.int64(load_u8(at))
        while stop < end:
            byte = np.int64(load_u8(stop))
            if not load_u8(model.joins + (before << 8 | byte)):
                break
            before = byte
            stop += 1
        size = stop - at
        if size <= INLINE_BYTES:
            low, high = key_of(at, size, readable)
        elif size <= LONGEST_KEPT:
            low, high = key_of_long(at, size)
        else:
            low = high = U0
        found = False
        slot = slot_of(low, high, cache)
        if size <= LONGEST_KEPT:
            for p in range(PROBES):
                place = slot + p * SLOT
                seen = load_acquire(place + 8)
                if seen == high and load_u64(place) == low:
                    n = np.int64(load_u32(place + 28))
                    if size <= INLINE_BYTES and n <= INLINE_IDS:
                        out = copy_many(out, place + 16, n, wide)
                        found = True
                        break
                    source = cache.arena + np.int64(load_u64(place + 16))
                    if size <= INLINE_BYTES or same_bytes(at, source + ((n + 3) & ~3) * 4, size):
                        out = copy_many(out, source, n, wide)
                        found = True
                        break
                if seen == U0:
                    break
        if not found:
            out = encode_unknown(at, size, low, high, slot, model, cache, scratch, out, wide)
            if out < 0:
                return out
        at = stop
    return out


@compiled
def encode_spans(n, readable, model, cache, scratch, out, wide):
    """Encode the pieces between scratch.starts[0], ..., scratch.starts[n]; the address after the last id."""
    starts = scratch.starts
    for i in range(n):
        start = np.int64(item_u64(starts, i))
        length = np.int64(item_u64(starts, i + 1)) - start
        slot = 0
        if length <= INLINE_BYTES:
            low, high = key_of(start, length, readable)
            slot = slot_of(low, high, cache)
            prefetch(slot)
            set_item_u64(scratch.lows, i, low)
            set_item_u64(scratch.highs, i, high)
        set_item_u64(scratch.slots, i, np.uint64(slot))
    for i in range(n):
        slot = np.int64(item_u64(scratch.slots, i))
        if slot == 0:
            start = np.int64(item_u64(starts, i))
            length = np.int64(item_u64(starts, i + 1)) - start
            out = encode_long(start, length, readable, model, cache, scratch, out, wide)
            if out < 0:
                return out
            continue
        low, high = item_u64(scratch.lows, i), item_u64(scratch.highs, i)
        place = slot
        k = 0
        for _ in range(PROBES):
            seen = load_acquire(place + 8)
            if seen == high and load_u64(place) == low:
                k = np.int64(load_u32(place + 28))
                break
            if seen == U0:
                break
            place += SLOT
        if k == 0:
            start = np.int64(item_u64(starts, i))
            length = np.int64(item_u64(starts, i + 1)) - start
            out = encode_unknown(start, length, low, high, slot, model, cache, scratch, out, wide)
        elif k > INLINE_IDS:
            out = copy_many(out, cache.arena + np.int64(load_u64(place + 16)), k, wide)
        elif wide:
            copy_ids_u32(out, place + 16)
            out += k << 2
        else:
            copy_ids_u16(out, place + 16)
            out += k << 1
    return out


@compiled
def encode_gpt2(text, end, readable, model, cache, scratch, out, wide):
    """Encode the UTF-8 bytes from the address `text` to `end`, split by GPT-2's pattern.

    Args:
        readable: address up to which memory may be read, at least `end`.
        out: address of the ids, uint32 if `wide` or uint16, one for every byte and OUT_SLACK more.

    Returns:
        The number of ids; or INVALID where the text is not UTF-8; or UNORDERED.
    """
    for i in range(STATES):
        set_item_u64(scratch.state, i, U0)
    position, count, first = text, 0, out
    while position < end:
        count = scan_gpt2(text, position, end, model.classes, scratch, count)
        if count < 0:
            return INVALID
        position += GROUP * 64
        if position >= end:
            set_item_u64(scratch.starts, count, np.uint64(end))
            count += 1
        out = encode_spans(count - 1, readable, model, cache, scratch, out, wide)
        if out < 0:
            return out
        set_item_u64(scratch.starts, 0, item_u64(scratch.starts, count - 1))
        count = 1
    return (out - first) >> (2 if wide else 1)


@compiled
def encode_texts(text, start, ends, counts, readable, model, cache, scratch, out, wide):
    """Encode texts that lie behind one another, each by itself: text i ends at the offset ends[i].

    Args:
        text: address that the offsets count from. start: offset of the first text.
        counts: int64, the number of ids of each is written there.

    Returns:
        -1; or the index of a text that is not UTF-8 (counts there: INVALID) or that the kernels do not encode.
    """
    begin = text + start
    for i in range(len(ends)):
        end = text + ends[i]
        counts[i] = encode_gpt2(begin, end, readable, model, cache, scratch, out, wide)
        if counts[i] < 0:
            return i
        out += counts[i] << (2 if wide else 1)
        begin = end
    return -1


@compiled
def encode_pieces(text, ends, readable, model, cache, scratch, out, wide):
    """Encode the pieces that lie behind one another from the address `text`: piece i ends at the offset ends[i].

    Returns:
        The number of ids, or UNORDERED.
    """
    first = out
    done = 0
    set_item_u64(scratch.starts, 0, np.uint64(text))
    while done < len(ends):
        n = min(len(ends) - done, GROUP * 64)
        for i in range(n):
            set_item_u64(scratch.starts, i + 1, np.uint64(text + ends[done + i]))
        out = encode_spans(n, readable, model, cache, scratch, out, wide)
        if out < 0:
            return out
        set_item_u64(scratch.starts, 0, item_u64(scratch.starts, n))
        done += n
    return (out - first) >> (2 if wide else 1)


@compiled
def rehash(source, target):
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
