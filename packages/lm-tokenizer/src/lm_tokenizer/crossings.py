"""Which bytes of a text a token may reach across: what the kernels cut long pretokens by.

tokens --every place between two of their bytes--> flags of these two, and the bytes around them
"""

from collections.abc import Iterable

import numpy as np

from lm_tokenizer._kernels.cut import CONTEXT_BITS, CROSSED, GOLDEN, NEAR_END


def crossings(tokens: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The tables of `_kernels.cut`, of all tokens that a merge makes.

    Returns:
        (256 * left + right) bytes -> flags, uint8; a bit for each hash of a context, CONTEXT_BITS of it, in uint64.
    """
    made = list(tokens)
    joins, contexts = np.zeros(1 << 16, np.uint8), np.zeros((1 << CONTEXT_BITS) // 64, np.uint64)
    if not made:
        return joins, contexts
    lengths = np.array([len(token) for token in made])
    data = np.frombuffer(b"".join(made) + bytes(2), np.uint8).astype(np.uint64)
    ends = np.cumsum(lengths)
    begin, end = np.repeat(ends - lengths, lengths), np.repeat(ends, lengths)
    places = np.flatnonzero(np.arange(ends[-1]) > begin)
    pair = (data[places - 1] << np.uint64(8) | data[places]).astype(np.int64)
    joins[pair] = CROSSED
    # Where a character of three bytes or more begins behind another one's end, see `next_cut`.
    at_character = (data[places] >= 0xE0) & (data[places - 1] >= 0x80)
    places, pair = places[at_character], pair[at_character]
    before, behind = places - begin[places], end[places] - places
    near = (before < 3) | (behind < 2)
    joins[pair[near]] |= NEAR_END
    places, behind = places[~near], behind[~near]
    context = np.zeros(len(places), np.uint64)
    for i in range(6):
        byte = np.where(i < 5, data[places - 3 + i], np.where(behind > 2, data[places + 2], 0))
        context |= byte.astype(np.uint64) << np.uint64(8 * i)
    bits = context * GOLDEN >> np.uint64(64 - CONTEXT_BITS)
    np.bitwise_or.at(contexts, bits >> np.uint64(6), np.uint64(1) << (bits & np.uint64(63)))
    return joins, contexts
