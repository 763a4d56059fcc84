"""The distinct pretokens of a corpus, laid out for learning.

All lie behind one another in `symbols`, most frequent first, each followed by END. A token that spans bytes p to q has
its id in symbols[p] and in symbols[q], so both its neighbours are one look away; what lies between is never read. How
often a pretoken occurs is kept for blocks of positions: pretokens of different counts do not share one.
"""

from lm_tokenizer._kernels.compiled import Int64s, Uint16s, Uint32s, kernel
from lm_tokenizer._kernels.count import Counts, bytes_at, length_at
from lm_tokenizer._kernels.intrinsics import load_u8, prefetch

AHEAD = 16
"""Pretokens between asking for a cache line and reading it."""
BLOCK_BITS = 4
"""Positions of one block of 2**BLOCK_BITS belong to pretokens of one count."""


@kernel("training")
def size_of_layout(places: Int64s, numbers: Int64s):
    """Positions that `lay_out` needs."""
    block = 1 << BLOCK_BITS
    p = block
    for i in range(len(places)):
        if i and numbers[i] != numbers[i - 1]:
            p = (p + block - 1) & ~(block - 1)
        if i + AHEAD < len(places):
            prefetch(places[i + AHEAD])
        p += length_at(places[i]) + 1
    return (p + 2 * block) & ~(block - 1)


@kernel("training")
def lay_out(
    places: Int64s,
    numbers: Int64s,
    counts: Counts,
    id_of_byte: Uint32s,
    symbols: [Uint16s, Uint32s],
    weights: Int64s,
    end_symbol: int,
):
    """Write the pretokens, ordered by count, and the count of each block; position of the first that occurs once."""
    block = 1 << BLOCK_BITS
    symbols[:block] = end_symbol
    p = block
    once = len(symbols)
    for i in range(len(places)):
        if i and numbers[i] != numbers[i - 1]:
            while p & (block - 1):
                symbols[p] = end_symbol
                p += 1
        if numbers[i] == 1:
            once = min(once, p)
        if i + AHEAD < len(places):
            prefetch(places[i + AHEAD])
        at = bytes_at(places[i], counts)
        for j in range(length_at(places[i])):
            symbols[p] = id_of_byte[load_u8(at + j)]
            weights[p >> BLOCK_BITS] = numbers[i]
            p += 1
        symbols[p] = end_symbol
        p += 1
    symbols[p:] = end_symbol
    return once
