"""Where a long pretoken may be cut before its bytes are merged: where no token reaches from one side to the other.

Between most bytes that follow one another in a text some token holds the two, above all where characters of three bytes
meet: the last byte of one and the first of the next are any of a few. So there more bytes are compared, the three on
each side; a token that ends or begins within them is looked for too. See `crossings`, which fills the tables.
"""

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import item_u64, load_u8, load_u32

CROSSED, NEAR_END = 1, 2
"""Flags of a pair of bytes: some token holds the two; one holds them so near to its end that no more is compared."""
CONTEXT_BITS = 17
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
U1, U6, U32, U63, U_SHIFT = (np.uint64(value) for value in (1, 6, 32, 63, 64 - CONTEXT_BITS))


@compiled
def is_known(context, contexts):
    """Whether some token may hold these bytes. There may be false hits, which cost a cut."""
    bit = context * GOLDEN >> U_SHIFT
    return item_u64(contexts, np.int64(bit >> U6)) >> (bit & U63) & U1


@compiled
def next_cut(at, end, model):
    """The first place behind `at` that no token reaches across, or `end`; both are ends of characters or cuts."""
    stop = at + 1
    before = np.int64(load_u8(at))
    while stop < end:
        byte = np.int64(load_u8(stop))
        flags = load_u8(model.joins + (before << 8 | byte))
        if flags == 0:
            break
        if flags == CROSSED and byte >= 0xE0 and before >= 0x80 and stop - at >= 3:
            # Three bytes before are there, and two more behind: those of the character that begins here.
            five = np.uint64(load_u32(stop - 3)) | np.uint64(load_u8(stop + 1)) << U32
            six = five | np.uint64(load_u8(stop + 2)) << np.uint64(40)
            if not is_known(six, model.contexts) and not is_known(five, model.contexts):
                break
        before = byte
        stop += 1
    return stop
