"""Counting pretokens: a table of its own for each thread, merged when all are done.

A slot is 32 bytes: the pretoken as in the encoder's cache (itself, or a hash and its length), its count, and for a long
pretoken the place of its bytes in the arena.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.cache import INLINE_BYTES, K1, K2, SLOT, key_of, key_of_long, same_bytes
from lm_tokenizer._kernels.compiled import Int64s, compiled, kernel
from lm_tokenizer._kernels.encode import Scratch
from lm_tokenizer._kernels.intrinsics import item_u64, load_u64, prefetch, set_item_u64, store_u64
from lm_tokenizer._kernels.scan import GROUP, INVALID, STATES, U0, U1
from lm_tokenizer._kernels.split import scan

FULL = -2
"""The table or the arena must grow before the count can continue."""
GROUP_BYTES = GROUP * 64


class Counts(NamedTuple):
    """Pretokens and how often they occur: addresses, as in `merge.Model`.

    Attributes:
        table: slots. shift: 64 less the bits of their number.
        arena: bytes of long pretokens. room: its bytes.
        used: address of two int64, slots taken and bytes taken of the arena.
    """

    table: int
    shift: int
    arena: int
    room: int
    used: int


@compiled
def first_slot(low, high, counts):
    """Address of the slot where the search for a key begins."""
    return counts.table + (np.int64(((low ^ (high * K2)) * K1) >> np.uint64(counts.shift)) << 5)


@compiled
def add(at, length, low, high, slot, number, counts):
    """Add `number` to the count of a pretoken, whose bytes are at the address `at` if it is long."""
    end = counts.table + (SLOT << (64 - counts.shift))
    while True:
        seen = load_u64(slot + 8)
        if seen == high and load_u64(slot) == low:
            if length <= INLINE_BYTES or same_bytes(at, counts.arena + np.int64(load_u64(slot + 24)), length):
                store_u64(slot + 16, load_u64(slot + 16) + number)
                return
        elif seen == U0:
            break
        slot += SLOT
        if slot == end:
            slot = counts.table
    store_u64(slot, low)
    store_u64(slot + 8, high)
    store_u64(slot + 16, number)
    set_item_u64(counts.used, 0, item_u64(counts.used, 0) + U1)
    if length > INLINE_BYTES:
        offset = np.int64(item_u64(counts.used, 1))
        store_u64(slot + 24, np.uint64(offset))
        place = counts.arena + offset
        for i in range(0, length - 7, 8):
            store_u64(place + i, load_u64(at + i))
        store_u64(place + length - 8, load_u64(at + length - 8))
        set_item_u64(counts.used, 1, np.uint64(offset + length + 7 & ~7))


@compiled
def count_spans(n, readable, counts, scratch):
    """Count the pretokens between the first n + 1 starts of the scratch, as far as there is room; how many were."""
    starts = scratch.starts
    for i in range(n):
        start = np.int64(item_u64(starts, i))
        length = np.int64(item_u64(starts, i + 1)) - start
        if length <= INLINE_BYTES:
            low, high = key_of(start, length, readable)
        else:
            low, high = key_of_long(start, length)
        slot = first_slot(low, high, counts)
        prefetch(slot)
        set_item_u64(scratch.lows, i, low)
        set_item_u64(scratch.highs, i, high)
        set_item_u64(scratch.slots, i, np.uint64(slot))
    for i in range(n):
        slot = np.int64(item_u64(scratch.slots, i))
        low, high = item_u64(scratch.lows, i), item_u64(scratch.highs, i)
        # Nearly always it is there at once; the rest is a call.
        if load_u64(slot + 8) == high and load_u64(slot) == low and high >> np.uint64(63) == U0:
            store_u64(slot + 16, load_u64(slot + 16) + U1)
            continue
        start = np.int64(item_u64(starts, i))
        add(start, np.int64(item_u64(starts, i + 1)) - start, low, high, slot, U1, counts)


@compiled
def has_room(counts, n, total):
    """Whether `n` new pretokens of `total` bytes together fit without crowding the table."""
    slots = np.int64(1) << (64 - counts.shift)
    used, taken = np.int64(item_u64(counts.used, 0)), np.int64(item_u64(counts.used, 1))
    return 2 * (used + n) <= slots and taken + total + 8 * n <= counts.room


@compiled
def count_text(text, position, end, readable, classes, counts, scratch, pattern):
    """Count the pretokens of the text from the address `text` to `end`, split by a published pattern.

    Args:
        position: where to continue: `text` at first, then what the last call returned.

    Returns:
        `end` when all is counted; a position before it when the table must grow first; or INVALID.
    """
    count = 1
    if position == text:
        count = 0
        for i in range(STATES):
            set_item_u64(scratch.state, i, U0)
    while position < end:
        # A pretoken that began before this group is counted where it ends, so its bytes need room too.
        pending = position - np.int64(item_u64(scratch.starts, 0)) if count else 0
        if not has_room(counts, GROUP_BYTES + 1, GROUP_BYTES + pending):
            return position
        count = scan(text, position, end, classes, scratch, count, pattern)
        if count < 0:
            return INVALID
        position += GROUP_BYTES
        if position >= end:
            set_item_u64(scratch.starts, count, np.uint64(end))
            count += 1
        count_spans(count - 1, readable, counts, scratch)
        set_item_u64(scratch.starts, 0, item_u64(scratch.starts, count - 1))
        count = 1
    return end


@kernel("training")
def count_texts(
    text: int,
    begins: Int64s,
    ends: Int64s,
    readable: int,
    classes: int,
    pattern: int,
    counts: Counts,
    scratch: Scratch,
    progress: Int64s,
):
    """Count the pretokens of texts, each split by itself, by a published pattern.

    Args:
        pattern: its number.
        text: address that the offsets `begins` and `ends` count from.
        progress: int64: the text and the address to continue with, zeros at first; brought up to date.

    Returns:
        0 when all are counted; FULL when the table must grow first; or INVALID, for the text that `progress` names.
    """
    for i in range(progress[0], len(begins)):
        progress[0] = i
        begin, end = text + begins[i], text + ends[i]
        position = max(progress[1], begin)
        progress[1] = end
        if position < end:
            progress[1] = count_text(begin, position, end, readable, classes, counts, scratch, pattern)
        if progress[1] == INVALID:
            return INVALID
        if progress[1] < end:
            return FULL
    return 0


@kernel("training")
def count_pretokens(text: int, ends: Int64s, readable: int, counts: Counts, scratch: Scratch, progress: Int64s):
    """Count the pretokens that lie behind one another from the address `text`: pretoken i ends at the offset ends[i].

    Args and returns as `count_texts`.
    """
    for i in range(progress[0], len(ends)):
        progress[0] = i
        begin = text + (ends[i - 1] if i else 0)
        length = text + ends[i] - begin
        if not has_room(counts, 1, length):
            return FULL
        if length:
            low, high = key_of(begin, length, readable) if length <= INLINE_BYTES else key_of_long(begin, length)
            add(begin, length, low, high, first_slot(low, high, counts), U1, counts)
    return 0


@kernel("training")
def add_all(source: Counts, counts: Counts, least: int):
    """Add what `source` holds, if it occurs at least `least` times, to `counts`, which has room for it."""
    last = source.table + (SLOT << (64 - source.shift))
    place = source.table
    ahead = 8 * SLOT
    while place < last:
        if place + ahead < last and load_u64(place + ahead + 8) != U0:
            prefetch(first_slot(load_u64(place + ahead), load_u64(place + ahead + 8), counts))
        high, number = load_u64(place + 8), load_u64(place + 16)
        if high != U0 and number >= least:
            low = load_u64(place)
            length, at = np.int64(high >> np.uint64(56)), 0
            if high >> np.uint64(63):
                length = np.int64(high & ~(U1 << np.uint64(63)))
                at = source.arena + np.int64(load_u64(place + 24))
            add(at, length, low, high, first_slot(low, high, counts), number, counts)
        place += SLOT


@compiled
def length_at(place):
    """Bytes of the pretoken in a slot."""
    high = load_u64(place + 8)
    if high >> np.uint64(63):
        return np.int64(high & ~(U1 << np.uint64(63)))
    return np.int64(high >> np.uint64(56))


@kernel("training")
def pretokens_of(counts: Counts, shortest: int, places: Int64s, numbers: Int64s):
    """The slots that hold a pretoken of at least `shortest` bytes: their addresses and counts; how many there are."""
    n = 0
    for i in range(np.int64(1) << (64 - counts.shift)):
        place = counts.table + i * SLOT
        if length_at(place) >= shortest:
            places[n] = place
            numbers[n] = load_u64(place + 16)
            n += 1
    return n


@compiled
def bytes_at(place, counts):
    """Address of the bytes of the pretoken in a slot."""
    if load_u64(place + 8) >> np.uint64(63):
        return counts.arena + np.int64(load_u64(place + 24))
    return place
