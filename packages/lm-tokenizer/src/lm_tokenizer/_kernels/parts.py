"""The two parts of every token of a file of ranks: what merging its bytes by lower ranks leaves.

Tokens are looked up by a polynomial hash, since that of two behind one another follows from theirs; where hashes are
equal the bytes decide.
"""

from typing import NamedTuple

import numpy as np

from lm_tokenizer._kernels.compiled import Uint32s, Uint64s, compiled, kernel
from lm_tokenizer._kernels.intrinsics import item_u32, item_u64, load_u8, set_item_u32, set_item_u64

BASE = np.uint64(0x9E3779B97F4A7C15)
GOLDEN = np.uint64(0xD6E8FEB86659FD93)


class Tokens(NamedTuple):
    """Tokens by their places, as addresses.

    Attributes:
        text: bytes of all tokens behind one another. starts: uint64, where each begins in it, and where the last ends.
        powers: uint64, of BASE, up to the length of the longest.
        hashes: uint64, of each token that has been entered. table: uint32, places and 1 of these, 0 where it is empty.
        shift: 64 less the bits of the number of its rows.
    """

    text: int
    starts: int
    powers: int
    hashes: int
    table: int
    shift: int


@compiled
def start_of(tokens, place):
    """Where a token begins."""
    return np.int64(item_u64(tokens.starts, place))


@compiled
def has(tokens, place, at, begin, length):
    """Whether a token from its byte `at` on has the `length` bytes that begin at `begin`."""
    own = start_of(tokens, place) + at
    for i in range(length):
        if load_u8(tokens.text + own + i) != load_u8(tokens.text + begin + i):
            return False
    return True


@compiled
def place_of(tokens, key, begin, length, following, length_of_following):
    """The place of the token of two stretches of bytes behind one another, given their hash; -1 if there is none."""
    mask = (np.int64(1) << np.int64(64 - tokens.shift)) - 1
    row = np.int64(key * GOLDEN >> np.uint64(tokens.shift))
    while True:
        place = np.int64(item_u32(tokens.table, row)) - 1
        if place < 0:
            return place
        if item_u64(tokens.hashes, place) == key:
            whole = start_of(tokens, place + 1) - start_of(tokens, place)
            if whole == length + length_of_following and has(tokens, place, 0, begin, length):
                if has(tokens, place, length, following, length_of_following):
                    return place
        row = (row + 1) & mask


@compiled
def enter(tokens, place, key):
    """Enter a token, so that `place_of` finds it."""
    mask = (np.int64(1) << np.int64(64 - tokens.shift)) - 1
    row = np.int64(key * GOLDEN >> np.uint64(tokens.shift))
    while item_u32(tokens.table, row):
        row = (row + 1) & mask
    set_item_u32(tokens.table, row, place + 1)
    set_item_u64(tokens.hashes, place, key)


@compiled
def joined(tokens, left, right):
    """The place of the token of two behind one another; -1 if there is none."""
    begin, following = start_of(tokens, left), start_of(tokens, right)
    length, more = start_of(tokens, left + 1) - begin, start_of(tokens, right + 1) - following
    key = item_u64(tokens.hashes, left) * item_u64(tokens.powers, more) + item_u64(tokens.hashes, right)
    return place_of(tokens, key, begin, length, following, more)


@compiled
def stay_apart(tokens, n_bytes, left, right, lefts, rights):
    """See `reference.parts_of_tokens`."""
    while left >= n_bytes or right >= n_bytes:
        if left > right:
            limit = left
            left = np.int64(rights[left])
        else:
            limit = right + 1
            right = np.int64(lefts[right])
        place = joined(tokens, left, right)
        if place >= 0 and place < limit:
            return False
    return True


@kernel("encoding")
def find_parts(tokens: Tokens, n: int, n_bytes: int, prefixes: Uint64s, lefts: Uint32s, rights: Uint32s):
    """Write the places of the parts of each token from place `n_bytes` on; how many places could be gone through.

    Args:
        prefixes: for the hashes of the beginnings of one token, one more than the longest has bytes.
    """
    for place in range(n):
        begin = start_of(tokens, place)
        length = start_of(tokens, place + 1) - begin
        prefixes[0] = np.uint64(0)
        for i in range(length):
            byte = np.uint64(load_u8(tokens.text + begin + i)) + np.uint64(1)
            prefixes[i + 1] = prefixes[i] * BASE + byte
        whole = prefixes[length]
        found = place < n_bytes
        i = 1
        while not found and i < length:
            tail = whole - prefixes[i] * item_u64(tokens.powers, length - i)
            right = place_of(tokens, tail, begin + i, length - i, begin, 0)
            if right >= 0:
                left = place_of(tokens, prefixes[i], begin, i, begin, 0)
                if left >= 0 and stay_apart(tokens, n_bytes, left, right, lefts, rights):
                    lefts[place], rights[place] = left, right
                    found = True
            i += 1
        if not found:
            return place
        enter(tokens, place, whole)
    return n
