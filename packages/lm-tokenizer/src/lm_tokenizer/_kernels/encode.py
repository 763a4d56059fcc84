"""Encoding: pretokens -> ids, by the cache, and by merging what it does not hold.

    starts --keys--> slots, prefetched --compare--> ids
                                  '--miss--> merge --> keep

A long pretoken is first cut into pieces where no token reaches across: no merge crosses that.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.cache import (
    INLINE_BYTES,
    INLINE_IDS,
    PROBES,
    SLOT,
    Cache,
    keep,
    key_of,
    key_of_long,
    same_bytes,
    slot_of,
)
from lm_tokenizer._kernels.compiled import Int64s, compiled, kernel
from lm_tokenizer._kernels.cut import next_cut
from lm_tokenizer._kernels.intrinsics import (
    copy_ids_u16,
    copy_ids_u32,
    free_array,
    item_u32,
    item_u64,
    load_acquire,
    load_u8,
    load_u32,
    load_u64,
    new_array,
    prefetch,
    set_item_u64,
    store_u16,
    store_u32,
)
from lm_tokenizer._kernels.merge import SHORT, Model, is_run, merge_long, merge_run, merge_short
from lm_tokenizer._kernels.scan import GROUP, INVALID, MASKS, SLACK, STATES, U0
from lm_tokenizer._kernels.split import scan

LONGEST_KEPT = 512
"""Bytes of the longest pretoken that is kept in the cache."""
OUT_SLACK = 4
"""Elements that may be written past the last id."""
UNORDERED = -2
"""A long pretoken and merges that are not `ordered`: the kernels do not encode it."""
BATCH = GROUP * 64 + SLACK
PIECES = BATCH - 1
"""Pieces that are looked up together, at most."""


class Scratch(NamedTuple):
    """Working memory of one thread: the addresses of its arrays."""

    state: int
    masks: int
    padded: int
    starts: int
    lows: int
    highs: int
    slots: int
    pieces: int
    ids: int
    queue: int


SCRATCH_BYTES = Scratch(
    8 * STATES, 8 * MASKS, 64, 8 * BATCH, 8 * BATCH, 8 * BATCH, 8 * BATCH, 8 * BATCH, 4 * SHORT, 4 * SHORT
)


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
def encode_unknown(at, length, low, high, slot, model, cache, scratch, out, wide):
    """Merge a pretoken that the cache does not hold, and keep it."""
    if length <= SHORT:
        n = merge_short(at, length, model, scratch.ids, scratch.queue)
        keep(at, length, low, high, slot, cache, scratch.ids, n)
        return store_ids(out, scratch.ids, n, wide)
    if not model.ordered:
        return UNORDERED
    memory = new_array(length, np.uint32)
    ids = np.int64(memory.ctypes.data)
    n = merge_run(np.int64(load_u8(at)), length, model, ids) if is_run(at, length) else -1
    if n < 0:
        n = merge_long(at, length, model, ids)
    if length <= LONGEST_KEPT:
        keep(at, length, low, high, slot, cache, ids, n)
    out = store_ids(out, ids, n, wide)
    free_array(memory)
    return out


@compiled
def encode_long(at, size, model, cache, scratch, out, wide):
    """Encode a piece of more than INLINE_BYTES bytes: look it up, or merge."""
    low = high = U0
    if size <= LONGEST_KEPT:
        low, high = key_of_long(at, size)
    slot = slot_of(low, high, cache)
    if size <= LONGEST_KEPT:
        for p in range(PROBES):
            place = slot + p * SLOT
            seen = load_acquire(place + 8)
            if seen == high and load_u64(place) == low:
                n = np.int64(load_u32(place + 28))
                source = cache.arena + np.int64(load_u64(place + 16))
                if same_bytes(at, source + ((n + 3) & ~3) * 4, size):
                    return copy_many(out, source, n, wide)
            if seen == U0:
                break
    return encode_unknown(at, size, low, high, slot, model, cache, scratch, out, wide)


@compiled
def ask_for(i, at, size, readable, cache, scratch):
    """Make a piece the i-th of the scratch, and ask for the cache line of its slot, if it is short."""
    slot = 0
    if size <= INLINE_BYTES:
        low, high = key_of(at, size, readable)
        slot = slot_of(low, high, cache)
        prefetch(slot)
        set_item_u64(scratch.lows, i, low)
        set_item_u64(scratch.highs, i, high)
    set_item_u64(scratch.pieces, i, np.uint64(at))
    set_item_u64(scratch.slots, i, np.uint64(slot))


@compiled
def encode_pieces(n, end, model, cache, scratch, out, wide):
    """Encode the first `n` pieces of the scratch, which lie behind one another and end at `end`."""
    set_item_u64(scratch.pieces, n, np.uint64(end))
    for i in range(n):
        slot = np.int64(item_u64(scratch.slots, i))
        k = 0
        place = slot
        low = high = U0
        if slot:
            low, high = item_u64(scratch.lows, i), item_u64(scratch.highs, i)
            for _ in range(PROBES):
                seen = load_acquire(place + 8)
                if seen == high and load_u64(place) == low:
                    k = np.int64(load_u32(place + 28))
                    break
                if seen == U0:
                    break
                place += SLOT
        if k == 0:
            start = np.int64(item_u64(scratch.pieces, i))
            size = np.int64(item_u64(scratch.pieces, i + 1)) - start
            if slot:
                out = encode_unknown(start, size, low, high, slot, model, cache, scratch, out, wide)
            else:
                out = encode_long(start, size, model, cache, scratch, out, wide)
                if out < 0:
                    return out
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
def encode_spans(n, readable, model, cache, scratch, out, wide):
    """Encode the pretokens between scratch.starts[0], ..., scratch.starts[n]; the address after the last id."""
    m = 0
    end = np.int64(item_u64(scratch.starts, 0))
    for i in range(n):
        start = end
        end = np.int64(item_u64(scratch.starts, i + 1))
        if end - start <= INLINE_BYTES and m < PIECES:
            ask_for(m, start, end - start, readable, cache, scratch)
            m += 1
            continue
        while start < end:
            if m == PIECES:
                out = encode_pieces(m, start, model, cache, scratch, out, wide)
                if out < 0:
                    return out
                m = 0
            stop = next_cut(start, end, model)
            ask_for(m, start, stop - start, readable, cache, scratch)
            m += 1
            start = stop
    return encode_pieces(m, end, model, cache, scratch, out, wide)


@compiled
def encode_text(text, end, readable, model, cache, scratch, out, wide):
    """Encode the UTF-8 bytes from the address `text` to `end`, split by the model's pattern.

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
        count = scan(text, position, end, model.classes, scratch, count, model.pattern)
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


@kernel("encoding")
def encode_texts(
    text: int, start: int, ends: Int64s, counts: Int64s, readable: int, model: Model, cache: Cache, scratch: Scratch,
    out: int, wide: int,
):  # fmt: skip
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
        counts[i] = encode_text(begin, end, readable, model, cache, scratch, out, wide)
        if counts[i] < 0:
            return i
        out += counts[i] << (2 if wide else 1)
        begin = end
    return -1


@kernel("encoding")
def encode_pretokens(
    text: int, ends: Int64s, readable: int, model: Model, cache: Cache, scratch: Scratch, out: int, wide: int
):
    """Encode the pretokens that lie behind one another from the address `text`: pretoken i ends at the offset ends[i].

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
