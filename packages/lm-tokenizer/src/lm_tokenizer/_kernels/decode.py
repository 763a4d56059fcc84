"""Decoding: the bytes of every id, 16 at a time."""

from lm_tokenizer._kernels.compiled import Int64s, Uint16s, Uint32s, kernel
from lm_tokenizer._kernels.intrinsics import copy_16

WIDTH = 16
"""Bytes of a token that are copied at once, and that may be written past the last byte."""


@kernel("encoding")
def decoded_length(ids: [Uint16s, Uint32s, Int64s], lengths: Int64s):
    """Bytes that the ids stand for; or -1 less the position of the first id that is not a token."""
    total, wrong = 0, False
    for i in range(len(ids)):
        token = ids[i]
        length = lengths[token] if token < len(lengths) and token >= 0 else 0
        wrong |= length == 0
        total += length
    if wrong:
        for i in range(len(ids)):
            if ids[i] >= len(lengths) or ids[i] < 0 or lengths[ids[i]] == 0:
                return -1 - i
    return total


@kernel("encoding")
def decode(ids: [Uint16s, Uint32s, Int64s], lengths: Int64s, starts: Int64s, tokens: int, out: int):
    """Write the bytes of the ids to the address `out`, and up to WIDTH more.

    Args:
        starts: offset of each token from the address `tokens`, behind each of which WIDTH bytes may be read.
    """
    for i in range(len(ids)):
        token = ids[i]
        length = lengths[token]
        source = tokens + starts[token]
        copy_16(out, source)
        if length > WIDTH:
            for j in range(WIDTH, length, WIDTH):
                copy_16(out + j, source + j)
        out += length
