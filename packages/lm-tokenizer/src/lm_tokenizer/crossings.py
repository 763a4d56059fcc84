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
    ends = np.cumsum(np.fromiter(map(len, made), np.int64, len(made)))
    data = np.frombuffer(b"".join(made) + bytes(2), np.uint8)
    pairs = data[:-1].astype(np.uint16) << 8 | data[1:]
    inside = np.ones(len(pairs), bool)
    inside[ends - 1] = inside[-1] = False  # of two tokens, and behind all
    joins[pairs[inside]] = CROSSED
    # Where a character of three bytes or more begins behind another one's end, see `next_cut`.
    places = np.flatnonzero(((pairs & 0x80FF) >= 0x80E0) & inside) + 1
    of = np.searchsorted(ends, places, "right")
    pair = pairs[places - 1]
    before, behind = places - np.concatenate([[0], ends])[of], ends[of] - places
    near = (before < 3) | (behind < 2)
    joins[pair[near]] |= NEAR_END
    places, behind = places[~near], behind[~near]
    context = np.zeros(len(places), np.uint64)
    for i in range(6):
        byte = data[places - 3 + i].astype(np.uint64)
        context |= np.where((i < 5) | (behind > 2), byte, 0) << np.uint64(8 * i)
    bits = context * GOLDEN >> np.uint64(64 - CONTEXT_BITS)
    np.bitwise_or.at(contexts, bits >> np.uint64(6), np.uint64(1) << (bits & np.uint64(63)))
    return joins, contexts
