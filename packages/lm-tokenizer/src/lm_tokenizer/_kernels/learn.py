"""Learning merges: the most frequent pair of neighbours, everywhere, until there are enough.

All distinct pieces lie behind one another in `symbols`, most frequent first, each followed by END. A token that spans
bytes p to q has its id in symbols[p] and in symbols[q], so both its neighbours are one look away; what lies between is
never read. Every pair that may still be merged has its count and the positions where it was seen; a position that no
longer holds the pair is passed over. A merge gathers what it changes in an array with one element a neighbour, so the
table of pairs is visited once a neighbour and not once an occurrence. Of the pairs, only those with at least `floor`
occurrences are kept: no other can be merged before the floor is lowered and the table made anew.
"""

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import load_u8, prefetch
from lm_tokenizer._kernels.count import bytes_at, length_at
from lm_tokenizer._kernels.scan import U1

AHEAD = 16
"""Occurrences between asking for a cache line and reading it."""
BLOCK_BITS = 4
"""Positions of one block of 2**BLOCK_BITS belong to pieces of one count."""
KEY, COUNT, START, SEEN = range(4)
"""Columns of a row of the table of pairs: left << 32 | right; count; where its positions start; how many there are."""
NO_KEY = np.int64(-1)
DONE, RARER, NO_ROOM, AGAIN = range(4)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
U32 = np.uint64(32)


@compiled
def size_of_layout(places, numbers):
    """Positions that `lay_out` needs."""
    block = 1 << BLOCK_BITS
    p = block
    for i in range(len(places)):
        if i and numbers[i] != numbers[i - 1]:
            p = (p + block - 1) & ~(block - 1)
        p += length_at(places[i]) + 1
    return (p + 2 * block) & ~(block - 1)


@compiled
def lay_out(places, numbers, counts, id_of_byte, symbols, weights, end_symbol):
    """Write the pieces, ordered by count, and the count of every block."""
    block = 1 << BLOCK_BITS
    symbols[:block] = end_symbol
    p = block
    for i in range(len(places)):
        if i and numbers[i] != numbers[i - 1]:
            while p & (block - 1):
                symbols[p] = end_symbol
                p += 1
        at = bytes_at(places[i], counts)
        for j in range(length_at(places[i])):
            symbols[p] = id_of_byte[load_u8(at + j)]
            weights[p >> BLOCK_BITS] = numbers[i]
            p += 1
        symbols[p] = end_symbol
        p += 1
    symbols[p:] = end_symbol


@compiled
def row_of(key, table):
    """The row of a pair, or the empty one where it would be."""
    mask = len(table) - 1
    row = np.int64(((np.uint64(key) * GOLDEN) >> U32)) & mask
    while table[row, KEY] != key and table[row, KEY] != NO_KEY:
        row = (row + 1) & mask
    return row


@compiled
def new_table(rows):
    """An empty table of pairs; `rows` is a power of two."""
    table = np.empty((rows, 4), np.int64)
    table[:, KEY] = NO_KEY
    return table


@compiled
def doubled(table):
    """The table with twice the rows."""
    larger = new_table(2 * len(table))
    for i in range(len(table)):
        if table[i, KEY] != NO_KEY:
            larger[row_of(table[i, KEY], larger)] = table[i]
    return larger


@compiled
def before(count_a, key_a, count_b, key_b):
    """Whether one pair is merged before another: the more frequent one, then the one with the smaller ids."""
    return count_a > count_b or (count_a == count_b and key_a < key_b)


@compiled
def sift_down(heap, size, i):
    """Restore the order of a heap below row `i`."""
    count, key = heap[i, 0], heap[i, 1]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and before(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1]):
            child += 1
        if not before(heap[child, 0], heap[child, 1], count, key):
            break
        heap[i, 0], heap[i, 1] = heap[child, 0], heap[child, 1]
        i = child
    heap[i, 0], heap[i, 1] = count, key


@compiled
def push(heap, size, count, key):
    """Add a pair; the heap has room."""
    i = size
    while i:
        parent = (i - 1) >> 1
        if not before(count, key, heap[parent, 0], heap[parent, 1]):
            break
        heap[i, 0], heap[i, 1] = heap[parent, 0], heap[parent, 1]
        i = parent
    heap[i, 0], heap[i, 1] = count, key


@compiled
def count_pairs(symbols, weights, lengths, end_symbol):
    """All pairs of neighbours: a table with counts and numbers of positions."""
    table, used = new_table(1 << 16), 0
    p, stop = 1 << BLOCK_BITS, len(symbols)
    while p < stop:
        left = np.int64(symbols[p])
        if left == end_symbol:
            p += 1
            continue
        weight = weights[p >> BLOCK_BITS]
        p += lengths[left]
        right = np.int64(symbols[p])
        while right != end_symbol:
            key = left << 32 | right
            row = row_of(key, table)
            if table[row, KEY] == NO_KEY:
                table[row, KEY], table[row, COUNT], table[row, SEEN] = key, 0, 0
                used += 1
                if 2 * used > len(table):
                    table = doubled(table)
                    row = row_of(key, table)
            table[row, COUNT] += weight
            table[row, SEEN] += 1
            left = right
            p += lengths[left]
            right = np.int64(symbols[p])
    return table


@compiled
def frequent_pairs(symbols, lengths, end_symbol, every, floor):
    """Of all pairs those with at least `floor` occurrences: a table, its rows in use, their positions, and a heap."""
    kept = seen = 0
    for i in range(len(every)):
        if every[i, KEY] != NO_KEY and every[i, COUNT] >= floor:
            kept += 1
            seen += every[i, SEEN]
    rows = 1 << 12
    while rows < 4 * kept:
        rows *= 2
    table, heap = new_table(rows), np.empty((max(2 * kept, 1024), 2), np.int64)
    positions = np.empty(max(2 * seen, 1 << 16), np.uint32)
    size = top = 0
    for i in range(len(every)):
        if every[i, KEY] != NO_KEY and every[i, COUNT] >= floor:
            row = row_of(every[i, KEY], table)
            table[row] = every[i]
            table[row, START], table[row, SEEN] = top, 0
            top += every[i, SEEN]
            heap[size, 0], heap[size, 1] = every[i, COUNT], every[i, KEY]
            size += 1
    for i in range(size // 2 - 1, -1, -1):
        sift_down(heap, size, i)
    p, stop = 1 << BLOCK_BITS, len(symbols)
    while p < stop:
        left = np.int64(symbols[p])
        if left == end_symbol:
            p += 1
            continue
        following = p + lengths[left]
        right = np.int64(symbols[following])
        if right != end_symbol:
            row = row_of(left << 32 | right, table)
            if table[row, KEY] != NO_KEY:
                positions[table[row, START] + table[row, SEEN]] = p
                table[row, SEEN] += 1
        p = following
    return table, kept, positions, top, heap, size


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
def learn(symbols, weights, end_symbol, state, merges, texts, starts, slots, floor, until):
    """Merge pairs with at least `floor` occurrences, most frequent first, until there are `until` tokens.

    Args:
        symbols: ids, uint16 or uint32, as `lay_out` wrote them; changed in place.
        state: int64: number of tokens, number of merges, whether to stop. Kept up to date for other threads to see.
        merges: int64 (n, 2), written from row state[1] on.
        texts, starts: bytes of token i from starts[i] to starts[i + 1]. slots: hash table of the tokens' ids.

    Returns:
        DONE; RARER when no pair is left above the floor; NO_ROOM when `merges` or `texts` must be longer to go on; or
        AGAIN, to call once more: a merge has made a token that there was, and its pairs must be counted anew.
    """
    n_tokens, n_merges = state[0], state[1]
    lengths = np.zeros(len(starts), np.int64)
    for i in range(n_tokens):
        lengths[i] = starts[i + 1] - starts[i]
    every = count_pairs(symbols, weights, lengths, end_symbol)
    table, used, positions, top, heap, size = frequent_pairs(symbols, lengths, end_symbol, every, floor)
    every = new_table(1)
    # What a merge changes, one element a left (0) or right (1) neighbour: count, occurrences, where its positions go.
    changes = np.zeros((2, len(starts)), np.int64)
    seen = np.zeros((2, len(starts)), np.int64)
    targets = np.zeros((2, len(starts)), np.int64)
    neighbours = np.empty((2, len(starts)), np.int64)
    numbers = np.zeros(2, np.int64)
    done = np.empty((1024, 3), np.uint32)  # position, left and right neighbour of each occurrence merged
    base, width = np.int64(symbols.ctypes.data), symbols.itemsize
    while n_tokens < until and size and state[2] == 0:
        count, key = heap[0, 0], heap[0, 1]
        row = row_of(key, table)
        current = table[row, COUNT]
        if current == count or current < floor:
            size -= 1
            heap[0, 0], heap[0, 1] = heap[size, 0], heap[size, 1]
            sift_down(heap, size, 0)
            if current < floor:
                continue
        else:  # it has become rarer since it was pushed
            heap[0, 0] = current
            sift_down(heap, size, 0)
            continue
        first, second = key >> 32, key & 0xFFFFFFFF
        if n_merges == len(merges) or starts[n_tokens] + lengths[first] + lengths[second] > len(texts):
            return NO_ROOM
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
        # Merge every occurrence, and gather what that changes.
        begin, stop = table[row, START], table[row, START] + table[row, SEEN]
        table[row, COUNT] = 0
        if stop - begin > len(done):
            done = np.empty((2 * (stop - begin), 3), np.uint32)
        first_length, second_length = lengths[first], lengths[second]
        n = 0
        numbers[0] = numbers[1] = 0
        for i in range(begin, stop):
            if i + AHEAD < stop:
                prefetch(base + np.int64(positions[i + AHEAD]) * width)
            p = np.int64(positions[i])
            q = p + first_length
            if symbols[p] != first or symbols[q] != second:
                continue
            following = q + second_length
            left, right = np.int64(symbols[p - 1]), np.int64(symbols[following])
            symbols[q] = end_symbol  # no longer the start of a token
            symbols[p] = symbols[following - 1] = token
            done[n, 0], done[n, 1], done[n, 2] = p, left, right
            n += 1
            weight = weights[p >> BLOCK_BITS]
            if left != end_symbol:
                if seen[0, left] == 0:
                    neighbours[0, numbers[0]] = left
                    numbers[0] += 1
                changes[0, left] += weight
                seen[0, left] += 1
            if right != end_symbol:
                if seen[1, right] == 0:
                    neighbours[1, numbers[1]] = right
                    numbers[1] += 1
                changes[1, right] += weight
                seen[1, right] += 1
        if not is_new:
            return AGAIN
        # Make room, then bring the table up to date, one visit a neighbour.
        added = numbers[0] + numbers[1]
        if top + 2 * n > len(positions):
            positions = longer(positions, top, top + 2 * n)
        if size + added > len(heap):
            heap = longer(heap, size, size + added)
        while 2 * (used + added) > len(table):
            table = doubled(table)
        again = changes[0, token]  # of (token, first), which was merged in its turn: "abab"
        for side in range(2):
            for j in range(numbers[side]):
                other = neighbours[side, j]
                change = changes[side, other]
                old, new = other << 32 | first, other << 32 | token
                if side == 1:
                    old, new = second << 32 | other, token << 32 | other
                if side == 1 or other != token:
                    row = row_of(old, table)
                    if table[row, KEY] != NO_KEY:
                        table[row, COUNT] -= change
                if side == 1 and other == first:
                    change -= again
                targets[side, other] = -1
                if change >= floor:
                    row = row_of(new, table)
                    table[row, KEY], table[row, COUNT] = new, change
                    table[row, START], table[row, SEEN] = top, seen[side, other]
                    targets[side, other] = top
                    top += seen[side, other]
                    used += 1
                    push(heap, size, change, new)
                    size += 1
        for i in range(n):
            p, left, right = np.int64(done[i, 0]), np.int64(done[i, 1]), np.int64(done[i, 2])
            if left != end_symbol and targets[0, left] >= 0:
                positions[targets[0, left]] = p - lengths[left]
                targets[0, left] += 1
            if right != end_symbol and targets[1, right] >= 0:
                positions[targets[1, right]] = p
                targets[1, right] += 1
        for side in range(2):
            for j in range(numbers[side]):
                changes[side, neighbours[side, j]] = seen[side, neighbours[side, j]] = 0
    return RARER if size == 0 and n_tokens < until else DONE


@compiled
def longer(array, used, needed):
    """An array of at least `needed` rows that begins with the first `used` of this one."""
    larger = np.empty((max(needed, 2 * len(array)),) + array.shape[1:], array.dtype)
    larger[:used] = array[:used]
    return larger
