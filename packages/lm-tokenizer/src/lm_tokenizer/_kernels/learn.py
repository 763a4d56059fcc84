"""Learning merges: the most frequent pair of neighbours, everywhere, until there are enough.

    heap --pair--> its positions --merge each--> changes, one row a neighbour --> table of pairs, new positions, heap

A merge gathers what it changes in an array with one row a neighbour, so the table of pairs is visited once a neighbour
and not once an occurrence. How the tokens lie in memory: layout.py; what is known of pairs: pairs.py.
"""

import numpy as np

from lm_tokenizer._kernels.compiled import Int64Rows, Int64s, Uint8s, Uint16s, Uint32s, compiled, kernel
from lm_tokenizer._kernels.intrinsics import free_array, new_array, new_zeros, prefetch
from lm_tokenizer._kernels.layout import BLOCK_BITS
from lm_tokenizer._kernels.pairs import (
    COUNT,
    GOLDEN,
    KEY,
    NO_KEY,
    SEEN,
    START,
    U32,
    count_byte_pairs,
    count_pairs,
    doubled,
    frequent_pairs,
    longer,
    push,
    row_of,
    sift_down,
    without_long,
)
from lm_tokenizer._kernels.scan import U1

AHEAD = 16
"""Occurrences between asking for a cache line and reading it."""
CHANGE, OCCURRENCES, TARGET = range(3)
"""Columns of a neighbour of what is being merged: count and occurrences of the new pair; where its positions go."""
DONE, RARER, NO_ROOM, AGAIN = range(4)
U_BLOCK = np.uint64(BLOCK_BITS)


@compiled
def find_token(first, second, texts, starts, slots, n_tokens):
    """The id of the token that two tokens make, which is `n_tokens` if it is new, and its slot in the table of tokens.

    Its bytes have been written behind the last token in either case.
    """
    begin = end = starts[n_tokens]
    for part in (first, second):
        for i in range(starts[part], starts[part + 1]):
            texts[end] = texts[i]
            end += 1
    mask = np.uint64(len(slots) - 1)
    value = np.uint64(end - begin)
    for i in range(begin, end):
        value = (value ^ np.uint64(texts[i])) * GOLDEN
        value ^= value >> U32
    slot = value & mask
    while slots[slot] >= 0:
        other = slots[slot]
        if starts[other + 1] - starts[other] == end - begin:
            same = True
            for i in range(end - begin):
                if texts[starts[other] + i] != texts[begin + i]:
                    same = False
                    break
            if same:
                return other, np.int64(slot)
        slot = (slot + U1) & mask
    return n_tokens, np.int64(slot)


@compiled
def merge_everywhere(
    places, first, second, token, lengths, symbols, weights, end_symbol, once, lefts, rights, neighbours, done
):
    """Merge a pair at those of `places` that still hold it, and gather what that changes.

    Args:
        lefts, rights: int64 (tokens, 4): for every left and right neighbour, CHANGE and OCCURRENCES are added to.
        neighbours: int64 (2, tokens): which neighbours there are. done: uint32 (occurrences, 3): position, left and
            right neighbour of each.

    Returns:
        How many were merged, and the numbers of left and of right neighbours.
    """
    # Unsigned, so that no index is checked for being negative.
    first_length, second_length = np.uint64(lengths[first]), np.uint64(lengths[second])
    base, width = np.int64(symbols.ctypes.data), symbols.itemsize
    n = n_left = n_right = 0
    for i in range(len(places)):
        if i + AHEAD < len(places):
            prefetch(base + np.int64(places[i + AHEAD]) * width)
        p = np.uint64(places[i])
        q = p + first_length
        if symbols[p] != first or symbols[q] != second:
            continue
        following = q + second_length
        left, right = symbols[p - U1], symbols[following]
        symbols[q] = end_symbol  # no longer the start of a token
        symbols[p] = symbols[following - U1] = token
        done[n, 0], done[n, 1], done[n, 2] = p, left, right
        n += 1
        weight = 1 if p >= once else weights[p >> U_BLOCK]
        if left != end_symbol:
            if lefts[left, OCCURRENCES] == 0:
                neighbours[0, n_left] = left
                n_left += 1
            lefts[left, CHANGE] += weight
            lefts[left, OCCURRENCES] += 1
        if right != end_symbol:
            if rights[right, OCCURRENCES] == 0:
                neighbours[1, n_right] = right
                n_right += 1
            rights[right, CHANGE] += weight
            rights[right, OCCURRENCES] += 1
    return n, n_left, n_right


@compiled
def update_pairs(
    neighbours, changes, is_right, first, second, token, again, floor, table, heap, size, top, lengths, too_long, tokens
):
    """Take from the pairs that a merge has broken, and enter those that it has made and that reach the floor.

    Args:
        too_long: bytes of the shortest token that is not to be made. tokens: as in `before`.
        again: how often the new token was merged beside itself, "abab": the pair (token, first) was made and broken.

    Returns:
        The sizes of the heap and of the list of positions, in which the new pairs have their places.
    """
    for other in neighbours:
        change = changes[other, CHANGE]
        old, new = other << 32 | first, other << 32 | token
        if is_right:
            old, new = second << 32 | other, token << 32 | other
        if is_right or other != token:
            row = row_of(old, table)
            if table[row, KEY] != NO_KEY:
                table[row, COUNT] -= change
        if is_right and other == first:
            change -= again
        changes[other, TARGET] = -1
        if change >= floor and lengths[other] + lengths[token] < too_long:
            row = row_of(new, table)
            table[row, KEY], table[row, COUNT] = new, change
            table[row, START], table[row, SEEN] = top, changes[other, OCCURRENCES]
            changes[other, TARGET] = top
            top += changes[other, OCCURRENCES]
            push(heap, size, change, new, tokens)
            size += 1
    return size, top


@compiled
def write_positions(done, lengths, end_symbol, lefts, rights, positions):
    """Write where the new pairs are to the places that `update_pairs` has given them."""
    for i in range(len(done)):
        p, left, right = np.int64(done[i, 0]), done[i, 1], done[i, 2]
        if left != end_symbol and lefts[left, TARGET] >= 0:
            positions[lefts[left, TARGET]] = p - lengths[left]
            lefts[left, TARGET] += 1
        if right != end_symbol and rights[right, TARGET] >= 0:
            positions[rights[right, TARGET]] = p
            rights[right, TARGET] += 1


@kernel("training", apart=True)
def learn(
    symbols: [Uint16s, Uint32s], weights: Int64s, end_symbol: int, once: np.uint64, state: Int64s, merges: Int64Rows,
    texts: Uint8s, starts: Int64s, slots: Int64s, floor: int, until: int, room: Uint32s, too_long: int,
    tokens: [None, (Uint8s, Int64s)],
):  # fmt: skip
    """Merge pairs with at least `floor` occurrences, most frequent first, until there are `until` tokens.

    Args:
        symbols: ids, uint16 or uint32, as `lay_out` wrote them; changed in place. once: uint64, the position from which
            on every pretoken occurs once.
        state: int64: number of tokens, number of merges, whether to stop. Kept up to date for other threads to see.
        merges: int64 (n, 2), written from row state[1] on.
        room: uint32, for positions of pairs.
        texts, starts: bytes of token i from starts[i] to starts[i + 1]. slots: hash table of the tokens' ids.
        too_long: a token of so many bytes is not made, but of two single bytes. tokens: None, or (texts, starts) to
            have bytes decide between pairs that are equally frequent; see `pairs.before`.

    Returns:
        DONE; RARER when no pair is left above the floor; NO_ROOM when `merges` or `texts` must be longer; or
        AGAIN, to call once more: a merge has made a token that there was, and its pairs must be counted again.
    """
    n_tokens, n_merges = state[0], state[1]
    lengths = new_zeros(len(starts), np.int64)
    for i in range(n_tokens):
        lengths[i] = starts[i + 1] - starts[i]
    if n_tokens == 256:
        (every,) = count_byte_pairs(symbols, weights, once)
    else:
        (every,) = count_pairs(symbols, weights, lengths, end_symbol)
    without_long(every, lengths, too_long)
    table, used, positions, top, heap, size = frequent_pairs(symbols, lengths, end_symbol, every, floor, room, tokens)
    free_array(every)
    lefts, rights = new_zeros((len(starts), 4), np.int64), new_zeros((len(starts), 4), np.int64)
    neighbours = new_array((2, len(starts)), np.int64)
    done = new_array((1024, 3), np.uint32)
    outcome = DONE
    while n_tokens < until and size and state[2] == 0:
        count, key = heap[0, 0], heap[0, 1]
        row = row_of(key, table)
        current = table[row, COUNT]
        if floor <= current < count:  # it has become rarer since it was pushed
            heap[0, 0] = current
            sift_down(heap, size, 0, tokens)
            continue
        size -= 1
        heap[0, 0], heap[0, 1] = heap[size, 0], heap[size, 1]
        sift_down(heap, size, 0, tokens)
        if current < floor:
            continue
        first, second = key >> 32, key & 0xFFFFFFFF
        if n_merges == len(merges) or starts[n_tokens] + lengths[first] + lengths[second] > len(texts):
            outcome = NO_ROOM
            break
        token, slot = find_token(first, second, texts, starts, slots, n_tokens)
        merges[n_merges, 0], merges[n_merges, 1] = first, second
        n_merges += 1
        is_new = token == n_tokens
        if is_new:
            slots[slot] = token
            lengths[token] = lengths[first] + lengths[second]
            starts[token + 1] = starts[token] + lengths[token]
            n_tokens += 1
        state[0], state[1] = n_tokens, n_merges

        table[row, COUNT] = 0
        places = positions[table[row, START] : table[row, START] + table[row, SEEN]]
        if len(places) > len(done):
            free_array(done)
            done = new_array((2 * len(places), 3), np.uint32)
        n, n_left, n_right = merge_everywhere(
            places, first, second, token, lengths, symbols, weights, end_symbol, once, lefts, rights, neighbours, done
        )
        if not is_new:
            outcome = AGAIN
            break
        if top + 2 * n > len(positions):
            shorter = positions
            (positions,) = longer(shorter, top, top + 2 * n)
            free_unless(shorter, room)
        if size + n_left + n_right > len(heap):
            shorter_heap = heap
            (heap,) = longer(shorter_heap, size, size + n_left + n_right)
            free_array(shorter_heap)
        while 2 * (used + n_left + n_right) > len(table):
            (table,) = doubled(table)
        again, before = lefts[token, CHANGE], size
        size, top = update_pairs(
            neighbours[0, :n_left],
            lefts,
            False,
            first,
            second,
            token,
            again,
            floor,
            table,
            heap,
            size,
            top,
            lengths,
            too_long,
            tokens,
        )
        size, top = update_pairs(
            neighbours[1, :n_right],
            rights,
            True,
            first,
            second,
            token,
            again,
            floor,
            table,
            heap,
            size,
            top,
            lengths,
            too_long,
            tokens,
        )
        used += size - before
        write_positions(done[:n], lengths, end_symbol, lefts, rights, positions)
        for other in neighbours[0, :n_left]:
            lefts[other, CHANGE] = lefts[other, OCCURRENCES] = 0
        for other in neighbours[1, :n_right]:
            rights[other, CHANGE] = rights[other, OCCURRENCES] = 0
    free_unless(positions, room)
    for array in (table, heap, lefts, rights, neighbours):
        free_array(array)
    free_array(lengths)
    free_array(done)
    return RARER if outcome == DONE and size == 0 and n_tokens < until else outcome


@compiled
def free_unless(array, given):
    """Give the memory of an array back, unless it is the one that was given."""
    if array.ctypes.data != given.ctypes.data:
        free_array(array)
