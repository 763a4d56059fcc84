"""The two parts of every token of a vocabulary of which only the ranks are known."""

from collections.abc import Sequence

from lm_tokenizer import reference
from lm_tokenizer._kernels.objects import is_ready

FEW = 5_000
"""Tokens whose parts are found sooner than the kernels are loaded."""


def parts_of_tokens(tokens: Sequence[bytes], n_bytes: int) -> list[tuple[int, int]]:
    """See `reference.parts_of_tokens`; by a kernel, where there are many tokens and it is compiled."""
    if len(tokens) <= FEW or not is_ready("encoding"):
        return reference.parts_of_tokens(tokens, n_bytes)
    import numpy as np

    from lm_tokenizer._kernels.parts import BASE, Tokens, find_parts

    n, lengths = len(tokens), np.fromiter(map(len, tokens), np.uint64, len(tokens))
    text = np.frombuffer(b"".join(tokens), np.uint8)
    starts = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths, dtype=np.uint64)])
    powers = np.full(int(lengths.max()) + 1, BASE, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    bits = (2 * n).bit_length()
    hashes, table = np.zeros(n, np.uint64), np.zeros(1 << bits, np.uint32)
    lefts, rights = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
    addresses = [array.ctypes.data for array in (text, starts, powers, hashes, table)]
    at = Tokens._make([*addresses, 64 - bits])
    found = find_parts(at, n, n_bytes, np.empty_like(powers), lefts, rights)
    return list(zip(lefts[n_bytes:found].tolist(), rights[n_bytes:found].tolist(), strict=True))
