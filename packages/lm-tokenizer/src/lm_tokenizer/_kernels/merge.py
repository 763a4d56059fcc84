"""Byte pair encoding of one pretoken: apply the merge of the lowest rank, leftmost first, until none applies.

A short pretoken has the rank of every pair in an array and the tokens that are left in the bits of one word. A long one
keeps its pairs in a queue with a bucket for each rank, so that its time is linear in its bytes.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.compiled import Int64Rows, Uint64s, compiled, kernel
from lm_tokenizer._kernels.intrinsics import (
    find_in_8,
    free_array,
    item_u32,
    item_u64,
    leading_zeros,
    least_of_16,
    load_u8,
    new_array,
    new_zeros,
    set_item_u32,
    set_item_u64,
    trailing_zeros,
)
from lm_tokenizer._kernels.scan import ALL, U1

ID_BITS, RANK_BITS = 21, 22
EMPTY = ALL
NO_RANK = np.int64((1 << RANK_BITS) - 1)  # the rank that an EMPTY entry of the table shows
SHORT = 64
"""Bytes of the longest pretoken whose tokens are bits of one word."""
NOBODY = np.int64(0xFFFFFFFF)
ROOM = 64
"""Runs of equal tokens in a pretoken of one byte: about one for every doubling."""

U3, U_ID, U_RANK = np.uint64(3), np.uint64(ID_BITS), np.uint64(RANK_BITS)
RANK_MASK = (U1 << U_RANK) - U1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Model(NamedTuple):
    """The merges, as the kernels read them: addresses and numbers, since counting references costs more than a lookup.

    Attributes:
        pairs: uint64, buckets of 8, each at a multiple of 64 bytes: left id, right id and rank of a merge in one word,
            EMPTY elsewhere.
        pairs_bytes: of that table. shift: 64 less the bits of the number of its buckets.
        merged: uint32, rank -> id. n_ranks: how many.
        byte_ids: uint32, byte -> id.
        byte_ranks: uint32, (256 * left + right) bytes -> rank, or NO_RANK.
        joins: uint8, (256 * left + right) bytes -> flags, see `cut`.
        contexts: uint64, a bit for each hash of a context, see `cut`.
        classes: uint8, code point -> class.
        ordered: whether every merge comes after those that make its parts, and no two make the same token.
        pattern: the number of a published pattern, see `pretoken`.
    """

    pairs: int
    pairs_bytes: int
    shift: int
    merged: int
    n_ranks: int
    byte_ids: int
    byte_ranks: int
    joins: int
    contexts: int
    classes: int
    ordered: int
    pattern: int


@kernel("encoding")
def fill_pairs(merges: Int64Rows, pairs: Uint64s, shift: np.uint64):
    """Enter (left id, right id) at index `rank` of `merges` into the table; of a pair listed twice, the first."""
    last = np.int64(len(pairs) - 8)
    for rank in range(len(merges)):
        key = np.uint64(merges[rank, 0]) << U_ID | np.uint64(merges[rank, 1])
        at = np.int64((key * GOLDEN) >> shift) << 3
        while pairs[at] != EMPTY and pairs[at] >> U_RANK != key:
            at = at + 1 if at < last + 7 else 0
        if pairs[at] == EMPTY:
            pairs[at] = key << U_RANK | np.uint64(rank)


@compiled
def rank_of(model, left, right):
    """Rank of the merge of two ids, or NO_RANK."""
    key = np.uint64(left) << U_ID | np.uint64(right)
    at = np.int64((key * GOLDEN) >> np.uint64(model.shift)) << 6
    while True:
        same, empty = find_in_8(model.pairs + at, key, U_RANK)
        if same:
            return np.int64(item_u64(model.pairs + at, trailing_zeros(same)) & RANK_MASK)
        if empty:
            return NO_RANK
        at = at + 64 if at + 64 < model.pairs_bytes else 0


@compiled
def merge_short(text, length, model, ids, queue):
    """Encode `length` <= SHORT bytes at the address `text`; the number of ids.

    Args:
        ids: address of uint32 for SHORT ids. queue: of as many, for rank * SHORT + position of each pair.
    """
    chunks = (length + 15) >> 4
    byte = np.int64(load_u8(text))
    set_item_u32(ids, 0, item_u32(model.byte_ids, byte))
    for i in range(1, length):
        following = np.int64(load_u8(text + i))
        set_item_u32(ids, i, item_u32(model.byte_ids, following))
        set_item_u32(queue, i - 1, np.int64(item_u32(model.byte_ranks, byte << 8 | following)) << 6 | (i - 1))
        byte = following
    for i in range(length - 1, chunks << 4):
        set_item_u32(queue, i, NO_RANK << 6)
    alive = ALL >> np.uint64(64 - length)
    while True:
        least = np.int64(least_of_16(queue))
        for chunk in range(1, chunks):
            least = min(least, np.int64(least_of_16(queue + (chunk << 6))))
        best = least >> 6
        if best == NO_RANK:
            break
        i = least & 63
        merged = item_u32(model.merged, best)
        after = alive & ~((U1 << np.uint64(i) << U1) - U1)
        gone = trailing_zeros(after)
        after &= after - U1
        alive &= ~(U1 << np.uint64(gone))
        set_item_u32(ids, i, merged)
        set_item_u32(queue, gone, NO_RANK << 6)
        rank = rank_of(model, merged, item_u32(ids, trailing_zeros(after))) if after else NO_RANK
        set_item_u32(queue, i, rank << 6 | i)
        before = alive & ((U1 << np.uint64(i)) - U1)
        if before:
            j = 63 - leading_zeros(before)
            set_item_u32(queue, j, rank_of(model, item_u32(ids, j), merged) << 6 | j)
    n = 0
    while alive:
        set_item_u32(ids, n, item_u32(ids, trailing_zeros(alive)))
        alive &= alive - U1
        n += 1
    return n


class Queue(NamedTuple):
    """The pairs of a long pretoken, in buckets by rank: addresses of uint32, as in `Model`.

    Attributes:
        heads: rank -> position of the first pair, or NOBODY. occupied: uint64, a bit for each rank.
        ranks: position -> rank of the pair that begins there, or NO_RANK.
        earlier, later: position -> the pairs before and behind it in its bucket, or NOBODY.
    """

    heads: int
    occupied: int
    ranks: int
    earlier: int
    later: int


@compiled
def unlink(i, queue):
    """Take the pair at `i` out of its bucket, if it is in one."""
    rank = np.int64(item_u32(queue.ranks, i))
    if rank == NO_RANK:
        return
    set_item_u32(queue.ranks, i, NO_RANK)
    earlier, later = np.int64(item_u32(queue.earlier, i)), np.int64(item_u32(queue.later, i))
    if earlier == NOBODY:
        set_item_u32(queue.heads, rank, later)
    else:
        set_item_u32(queue.later, earlier, later)
    if later != NOBODY:
        set_item_u32(queue.earlier, later, earlier)


@compiled
def link(i, rank, queue):
    """Put the pair at `i` at the head of the bucket of its rank."""
    set_item_u32(queue.ranks, i, rank)
    if rank == NO_RANK:
        return
    word = rank >> 6
    set_item_u64(queue.occupied, word, item_u64(queue.occupied, word) | U1 << np.uint64(rank & 63))
    head = np.int64(item_u32(queue.heads, rank))
    set_item_u32(queue.earlier, i, NOBODY)
    set_item_u32(queue.later, i, head)
    if head != NOBODY:
        set_item_u32(queue.earlier, head, i)
    set_item_u32(queue.heads, rank, i)


@kernel("encoding")
def merge_long(text: int, length: int, model: Model, ids: int):
    """Encode `length` bytes at the address `text` into `ids`, address of uint32 for as many; the number of ids.

    The merges must be `ordered`: then the pairs of one rank are all there when the first of them is merged, and the
    queue moves only up. Takes 24 bytes a byte.
    """
    words = (model.n_ranks >> 6) + 1
    heads = new_array(model.n_ranks + 1, np.uint32)
    heads[:] = NOBODY
    occupied = new_zeros(words, np.uint64)
    memory = new_array((5, length + 1), np.uint32)
    base, row = np.int64(memory.ctypes.data), 4 * (length + 1)
    after, before = base, base + row
    queue = Queue(
        np.int64(heads.ctypes.data), np.int64(occupied.ctypes.data), base + 2 * row, base + 3 * row, base + 4 * row
    )
    following_byte = 0
    for i in range(length - 1, -1, -1):
        byte = np.int64(load_u8(text + i))
        set_item_u32(ids, i, item_u32(model.byte_ids, byte))
        set_item_u32(after, i, i + 1)
        set_item_u32(before, i + 1, i)
        rank = np.int64(item_u32(model.byte_ranks, byte << 8 | following_byte)) if i + 1 < length else NO_RANK
        link(i, rank, queue)
        following_byte = byte
    set_item_u32(before, 0, NOBODY)
    for word in range(words):
        while item_u64(queue.occupied, word):
            bits = item_u64(queue.occupied, word)
            rank = word << 6 | trailing_zeros(bits)
            set_item_u64(queue.occupied, word, bits & (bits - U1))
            merged = item_u32(model.merged, rank)
            while True:
                i = np.int64(item_u32(queue.heads, rank))
                if i == NOBODY:
                    break
                first = item_u32(ids, i)
                if item_u32(ids, np.int64(item_u32(after, i))) == first:  # a run's pairs count from its left end
                    previous = np.int64(item_u32(before, i))
                    while previous != NOBODY and item_u32(ids, previous) == first:
                        i = previous
                        previous = np.int64(item_u32(before, i))
                while i < length and np.int64(item_u32(queue.ranks, i)) == rank:
                    gone = np.int64(item_u32(after, i))
                    following, previous = np.int64(item_u32(after, gone)), np.int64(item_u32(before, i))
                    unlink(i, queue)
                    unlink(gone, queue)
                    set_item_u32(ids, i, merged)
                    set_item_u32(after, i, following)
                    set_item_u32(before, following, i)
                    if following < length:
                        link(i, rank_of(model, merged, item_u32(ids, following)), queue)
                    if previous != NOBODY:
                        unlink(previous, queue)
                        link(previous, rank_of(model, item_u32(ids, previous), merged), queue)
                    i = following
    n = i = 0
    while i < length:
        set_item_u32(ids, n, item_u32(ids, i))
        n, i = n + 1, np.int64(item_u32(after, i))
    free_array(heads)
    free_array(occupied)
    free_array(memory)
    return n


@compiled
def is_run(text, length):
    """Whether all bytes are equal."""
    first = load_u8(text)
    for i in range(1, length):
        if load_u8(text + i) != first:
            return False
    return True


@kernel("encoding")
def merge_run(byte: int, length: int, model: Model, ids: int):
    """Encode one byte `length` times over; the merges must be `ordered`. As `merge_long`, in a few steps.

    The tokens are kept as runs of equal ones, of which there are never more than a few: what merging equal tokens in
    pairs leaves over.
    """
    tokens, counts = new_array(ROOM, np.uint32), new_array(ROOM, np.int64)
    new_tokens, new_counts = new_array(ROOM, np.uint32), new_array(ROOM, np.int64)
    tokens[0], counts[0] = item_u32(model.byte_ids, byte), length
    n, best = 1, NO_RANK
    while True:
        best, at, within = NO_RANK, 0, True
        for i in range(n):
            rank = rank_of(model, tokens[i], tokens[i]) if counts[i] > 1 else NO_RANK
            if rank < best:
                best, at, within = rank, i, True
            rank = rank_of(model, tokens[i], tokens[i + 1]) if i + 1 < n else NO_RANK
            if rank < best:
                best, at, within = rank, i, False
        if best == NO_RANK:
            break
        if n + 2 > ROOM:
            break
        # Replace run `at`, or the two around a border, by what is left of them and the new tokens.
        merged, old_n = item_u32(model.merged, best), n
        n = 0
        for i in range(old_n):
            count = counts[i]
            if within and i == at:
                n = append_run(new_tokens, new_counts, n, merged, count >> 1)
                n = append_run(new_tokens, new_counts, n, tokens[i], count & 1)
            elif not within and i == at:
                n = append_run(new_tokens, new_counts, n, tokens[i], count - 1)
                n = append_run(new_tokens, new_counts, n, merged, 1)
            elif not within and i == at + 1:
                n = append_run(new_tokens, new_counts, n, tokens[i], count - 1)
            else:
                n = append_run(new_tokens, new_counts, n, tokens[i], count)
        tokens, counts, new_tokens, new_counts = new_tokens, new_counts, tokens, counts
    total = -1
    if best == NO_RANK:
        total = 0
        for i in range(n):
            for _ in range(counts[i]):
                set_item_u32(ids, total, tokens[i])
                total += 1
    free_array(tokens)
    free_array(counts)
    free_array(new_tokens)
    free_array(new_counts)
    return total


@compiled
def append_run(tokens, counts, n, token, count):
    """Append equal tokens to runs of tokens; the number of runs."""
    if count == 0:
        return n
    if n and tokens[n - 1] == token:
        counts[n - 1] += count
        return n
    tokens[n], counts[n] = token, count
    return n + 1
