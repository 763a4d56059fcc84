"""Pairs of neighbouring tokens: how often each occurs and where, in a table; and which is the next to merge, in a heap.

Only pairs with at least `floor` occurrences are kept: no other can be merged before the floor is lowered and the table
rebuilt. A position that no longer holds the pair is skipped when its turn comes.

Arrays are returned in tuples: without its runtime Numba lets no function return one by itself.
"""

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import copy_bytes, free_array, new_array, new_zeros
from lm_tokenizer._kernels.layout import BLOCK_BITS

KEY, COUNT, START, SEEN = range(4)
"""Columns of a row of the table of pairs: left << 32 | right; count; where its positions start; how many there are."""
NO_KEY = np.int64(-1)
UNKNOWN = -1
U8 = np.uint64(8)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
U32 = np.uint64(32)


@compiled
def row_of(key, table):
    """The row of a pair, or the empty one where it would be."""
    mask = len(table) - 1
    row = np.int64((np.uint64(key) * GOLDEN) >> U32) & mask
    while table[row, KEY] != key and table[row, KEY] != NO_KEY:
        row = (row + 1) & mask
    return row


@compiled
def new_table(rows):
    """An empty table of pairs, in memory of its own; `rows` is a power of two."""
    table = new_array((rows, 4), np.int64)
    table[:, KEY] = NO_KEY
    return (table,)


@compiled
def doubled(table):
    """The table with twice the rows, in place of this one."""
    (larger,) = new_table(2 * len(table))
    for i in range(len(table)):
        if table[i, KEY] != NO_KEY:
            copy_row(table, i, larger, row_of(table[i, KEY], larger))
    free_array(table)
    return (larger,)


@compiled
def copy_row(source, i, target, j):
    """Copy row `i` of one table of pairs to row `j` of another."""
    for column in range(4):
        target[j, column] = source[i, column]


@compiled
def before(count_a, key_a, count_b, key_b, tokens):
    """Whether one pair is merged before another: the more frequent one, then the one with the smaller ids.

    Args:
        tokens: None, or the bytes of the tokens and where each starts: then not ids but bytes decide, of the left
            tokens and if they are the same of the right ones, and the greater come first. A call with None compiles to
            the comparison of integers alone.
    """
    if tokens is None:
        return count_a > count_b or (count_a == count_b and key_a < key_b)
    if count_a != count_b or key_a == key_b:
        return count_a > count_b
    a, b = key_a >> 32, key_b >> 32
    if a == b:
        a, b = key_a & 0xFFFFFFFF, key_b & 0xFFFFFFFF
    texts, starts = tokens
    begin_a, begin_b = starts[a], starts[b]
    length_a, length_b = starts[a + 1] - begin_a, starts[b + 1] - begin_b
    for i in range(min(length_a, length_b)):
        if texts[begin_a + i] != texts[begin_b + i]:
            return texts[begin_a + i] > texts[begin_b + i]
    return length_a > length_b


@compiled
def sift_down(heap, size, i, tokens):
    """Restore the order of a heap below row `i`."""
    count, key = heap[i, 0], heap[i, 1]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and before(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1], tokens):
            child += 1
        if not before(heap[child, 0], heap[child, 1], count, key, tokens):
            break
        heap[i, 0], heap[i, 1] = heap[child, 0], heap[child, 1]
        i = child
    heap[i, 0], heap[i, 1] = count, key


@compiled
def push(heap, size, count, key, tokens):
    """Add a pair; the heap has room."""
    i = size
    while i:
        parent = (i - 1) >> 1
        if not before(count, key, heap[parent, 0], heap[parent, 1], tokens):
            break
        heap[i, 0], heap[i, 1] = heap[parent, 0], heap[parent, 1]
        i = parent
    heap[i, 0], heap[i, 1] = count, key


@compiled
def count_byte_pairs(symbols, weights, once):
    """`count_pairs`, when every token is a byte still."""
    counts = new_zeros((1 << 16, 2), np.int64)
    for p in range(1 << BLOCK_BITS, len(symbols) - 1):
        left, right = symbols[p], symbols[p + 1]
        if left < 256 and right < 256:
            pair = np.uint64(left) << U8 | np.uint64(right)
            counts[pair, 0] += 1 if p >= once else weights[p >> BLOCK_BITS]
            counts[pair, 1] += 1
    (table,) = new_table(1 << 17)
    for pair in range(1 << 16):
        if counts[pair, 1]:
            key = (pair >> 8) << 32 | (pair & 255)
            row = row_of(key, table)
            table[row, KEY], table[row, COUNT], table[row, SEEN] = key, counts[pair, 0], counts[pair, 1]
    free_array(counts)
    return (table,)


@compiled
def count_pairs(symbols, weights, lengths, end_symbol):
    """All pairs of neighbours: a table with counts and numbers of positions."""
    (table,) = new_table(1 << 16)
    used = 0
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
                    (table,) = doubled(table)
                    row = row_of(key, table)
            table[row, COUNT] += weight
            table[row, SEEN] += 1
            left = right
            p += lengths[left]
            right = np.int64(symbols[p])
    return (table,)


@compiled
def without_long(every, lengths, too_long):
    """Take from a table the counts of pairs that would make a token of `too_long` bytes or more; bytes may pair."""
    for i in range(len(every)):
        if every[i, KEY] != NO_KEY:
            length = lengths[every[i, KEY] >> 32] + lengths[every[i, KEY] & 0xFFFFFFFF]
            if length >= too_long and length > 2:
                every[i, COUNT] = 0


@compiled
def frequent_pairs(symbols, lengths, end_symbol, every, floor, positions, tokens):
    """Of all pairs those with at least `floor` occurrences: a table, its rows in use, their positions, and a heap.

    Their positions are written into `positions`, uint32, if it is long enough, else into memory of their own, as table
    and heap are. tokens: as in `before`.
    """
    kept = seen = 0
    for i in range(len(every)):
        if every[i, KEY] != NO_KEY and every[i, COUNT] >= floor:
            kept += 1
            seen += every[i, SEEN]
    rows = 1 << 12
    while rows < 4 * kept:
        rows *= 2
    (table,) = new_table(rows)
    heap = new_array((max(2 * kept, 1024), 2), np.int64)
    if seen > len(positions):
        positions = new_array(2 * seen, np.uint32)
    size = top = 0
    for i in range(len(every)):
        if every[i, KEY] != NO_KEY and every[i, COUNT] >= floor:
            row = row_of(every[i, KEY], table)
            copy_row(every, i, table, row)
            table[row, START], table[row, SEEN] = top, 0
            top += every[i, SEEN]
            heap[size, 0], heap[size, 1] = every[i, COUNT], every[i, KEY]
            size += 1
    for i in range(size // 2 - 1, -1, -1):
        sift_down(heap, size, i, tokens)
    rows_of_bytes = new_array(1 << 16, np.int32)
    rows_of_bytes[:] = UNKNOWN
    p, stop = 1 << BLOCK_BITS, len(symbols)
    while p < stop:
        left = np.int64(symbols[p])
        if left == end_symbol:
            p += 1
            continue
        following = p + lengths[left]
        right = np.int64(symbols[following])
        if right != end_symbol:
            if left < 256 and right < 256:
                row = np.int64(rows_of_bytes[left << 8 | right])
                if row == UNKNOWN:
                    row = row_of(left << 32 | right, table)
                    rows_of_bytes[left << 8 | right] = row
            else:
                row = row_of(left << 32 | right, table)
            if table[row, KEY] != NO_KEY:
                positions[table[row, START] + table[row, SEEN]] = p
                table[row, SEEN] += 1
        p = following
    free_array(rows_of_bytes)
    return table, kept, positions, top, heap, size


@compiled
def longer(array, used, needed):
    """An array of at least `needed` rows, in memory of its own, that begins with the first `used` of this one."""
    larger = new_array((max(needed, 2 * len(array)),) + array.shape[1:], array.dtype)
    copy_bytes(np.int64(larger.ctypes.data), np.int64(array.ctypes.data), used * array.strides[0])
    return (larger,)
