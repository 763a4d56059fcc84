"""Byte pair encoding of one piece: apply the merge of the lowest rank, leftmost first, until none applies.

A short piece keeps the rank of every pair in an array and the tokens that are left in the bits of one word. A long one
keeps its pairs in a queue with a bucket for each rank, so that its time is linear in its bytes.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import (
    find_in_8,
    item_u32,
    item_u64,
    leading_zeros,
    least_of_16,
    load_u8,
    set_item_u32,
    trailing_zeros,
)
from lm_tokenizer._kernels.scan import ALL, U0, U1

ID_BITS, RANK_BITS = 21, 22
EMPTY = ALL
NO_RANK = np.int64((1 << RANK_BITS) - 1)  # the rank that an EMPTY entry of the table shows
SHORT = 64
"""Bytes of the longest piece whose tokens are bits of one word."""
NOBODY = np.uint32(0xFFFFFFFF)

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
        joins: uint8, (256 * left + right) bytes -> whether some token holds these two neighbours.
        classes: uint8, code point -> class.
        ordered: whether every merge comes after those that make its parts, and no two make the same token.
    """

    pairs: int
    pairs_bytes: int
    shift: int
    merged: int
    n_ranks: int
    byte_ids: int
    byte_ranks: int
    joins: int
    classes: int
    ordered: int


@compiled
def fill_pairs(merges, pairs, shift):
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


@compiled
def unlink(i, ranks, heads, earlier, later):
    """Take the pair at `i` out of its bucket, if it is in one."""
    rank = ranks[i]
    if rank == NO_RANK:
        return
    ranks[i] = NO_RANK
    if earlier[i] == NOBODY:
        heads[rank] = later[i]
    else:
        later[earlier[i]] = later[i]
    if later[i] != NOBODY:
        earlier[later[i]] = earlier[i]


@compiled
def link(i, rank, ranks, heads, occupied, earlier, later):
    """Put the pair at `i` at the head of the bucket of its rank."""
    ranks[i] = rank
    if rank == NO_RANK:
        return
    occupied[rank >> 6] |= U1 << np.uint64(rank & 63)
    earlier[i] = NOBODY
    later[i] = heads[rank]
    if heads[rank] != NOBODY:
        earlier[heads[rank]] = i
    heads[rank] = i


@compiled
def merge_long(text, length, model, ids):
    """Encode `length` bytes at the address `text` into `ids`, uint32 with room for as many; the number of ids.

    The merges must be `ordered`: then the pairs of one rank are all there when the first of them is merged, and the
    queue moves only up. Takes 24 bytes a byte.
    """
    n_ranks = model.n_ranks
    heads = np.full(n_ranks, NOBODY, np.uint32)
    occupied = np.zeros((n_ranks >> 6) + 1, np.uint64)
    after, before, earlier, later, ranks = (np.empty(length + 1, np.uint32), np.empty(length + 1, np.uint32),
        np.empty(length, np.uint32), np.empty(length, np.uint32), np.empty(length, np.uint32))  # fmt: skip
    ranks[length - 1] = NO_RANK
    for i in range(length - 1, -1, -1):
        byte = np.int64(load_u8(text + i))
        ids[i] = item_u32(model.byte_ids, byte)
        after[i], before[i + 1] = i + 1, i
        if i + 1 < length:
            rank = np.int64(item_u32(model.byte_ranks, byte << 8 | np.int64(load_u8(text + i + 1))))
            link(i, rank, ranks, heads, occupied, earlier, later)
    before[0] = NOBODY
    for word in range(len(occupied)):
        while occupied[word]:
            rank = word << 6 | trailing_zeros(occupied[word])
            occupied[word] &= occupied[word] - U1
            merged = item_u32(model.merged, rank)
            while heads[rank] != NOBODY:
                i = np.int64(heads[rank])
                first = ids[i]
                if ids[after[i]] == first:  # of a run of one token, the pairs count from its left end
                    while before[i] != NOBODY and ids[before[i]] == first:
                        i = np.int64(before[i])
                while i < length and ranks[i] == rank:
                    gone = np.int64(after[i])
                    following, previous = np.int64(after[gone]), before[i]
                    unlink(i, ranks, heads, earlier, later)
                    unlink(gone, ranks, heads, earlier, later)
                    ids[i] = merged
                    after[i], before[following] = following, i
                    if following < length:
                        link(i, rank_of(model, merged, ids[following]), ranks, heads, occupied, earlier, later)
                    if previous != NOBODY:
                        unlink(previous, ranks, heads, earlier, later)
                        new = rank_of(model, ids[previous], merged)
                        link(previous, new, ranks, heads, occupied, earlier, later)
                    i = following
    n = i = 0
    while i < length:
        ids[n] = ids[i]
        n, i = n + 1, np.int64(after[i])
    return n
