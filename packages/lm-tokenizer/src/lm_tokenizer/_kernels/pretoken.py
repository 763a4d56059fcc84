"""The end of one pretoken, character by character: cl100k, Llama 3, o200k and Qwen 2, as their expressions read.

`split` calls it where the classes of 64 bytes at once do not decide: marks after punctuation, digits that are not
ASCII, white space that goes on behind a block. It is the same alternatives in the same order, without backtracking.
"""

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import load_u8
from lm_tokenizer._kernels.scan import BOTH, LOWER, MARK, NO_CHARACTER, NUMBER, OTHER, UPPER, WHITE, decode_character

GPT2, CL100K, LLAMA3, O200K, QWEN2 = range(5)
"""The published patterns, by number."""

LETTERS = 1 << UPPER | 1 << LOWER | 1 << BOTH
WORD = LETTERS | 1 << MARK
FIRST, LAST = 1 << UPPER | 1 << BOTH | 1 << MARK, 1 << LOWER | 1 << BOTH | 1 << MARK
"""o200k: characters of the first and of the second half of a word."""
PUNCTUATION = 1 << OTHER | 1 << MARK


@compiled
def class_at(at, end, classes):
    """Class and bytes of the character at `at`; NO_CHARACTER and 1 where the bytes are not UTF-8."""
    byte = np.int64(load_u8(at))
    if byte < 0x80:
        return np.int64(load_u8(classes + byte)), 1
    code, length = decode_character(at, end)
    if length == 0:
        return np.int64(NO_CHARACTER), 1
    return np.int64(load_u8(classes + code)), length


@compiled
def run_end(at, end, classes, kinds):
    """End of the characters from `at` on whose classes are in the set `kinds`."""
    while at < end:
        kind, length = class_at(at, end, classes)
        if not kinds >> kind & 1:
            break
        at += length
    return at


@compiled
def any_contraction(at, end):
    """Bytes of the contraction that begins with the apostrophe at `at`, in upper or lower case, or 0."""
    if at + 1 >= end:
        return 0
    first = np.int64(load_u8(at + 1)) | 0x20
    if first == ord("s") or first == ord("t") or first == ord("d") or first == ord("m"):
        return 2
    if at + 2 >= end:
        return 0
    second = np.int64(load_u8(at + 2))
    if load_u8(at + 1) == 0xC5 and second == 0xBF:  # U+017F, the long s
        return 3
    second |= 0x20
    if first == ord("l"):
        return 3 if second == ord("l") else 0
    return 3 if (first == ord("v") or first == ord("r")) and second == ord("e") else 0


@compiled
def word_end(at, end, classes):
    """End of o200k's word from `at` on, and whether it has a lower half; `at` where there is none.

    Upper-case letters, then lower-case ones; letters without case and marks may be either, so a word that has none of
    lower case ends with the last of these.
    """
    behind_caseless = at
    p = at
    while p < end:
        kind, length = class_at(p, end, classes)
        if not FIRST >> kind & 1:
            if kind == LOWER:
                return run_end(p, end, classes, LAST), True
            break
        p += length
        if kind != UPPER:
            behind_caseless = p
    if behind_caseless > at:
        return behind_caseless, True
    return p, False


@compiled
def is_newline(byte):
    """Whether a byte is a line feed or a carriage return."""
    return byte == 0x0A or byte == 0x0D


@compiled
def letters_end(at, kind, length, end, classes, pattern):
    """End of the pretoken of letters that begins at `at`, with the character before them or without; `at` if none."""
    is_letter = (LETTERS >> kind & 1) != 0
    if pattern != O200K:
        if is_letter:
            return run_end(at, end, classes, LETTERS)
        after = run_end(at + length, end, classes, LETTERS)
        return after if after > at + length else at
    start = at if is_letter else at + length
    after, lower = word_end(start, end, classes)
    if kind == MARK and not lower:  # a mark is a word of its own before letters of upper case
        after = start
    elif after == start:
        return at
    if after < end and load_u8(after) == ord("'"):
        after += any_contraction(after, end)
    return after


@compiled
def white_end(at, end, classes, pattern):
    """End of the pretoken of white space that begins at `at`."""
    p = last = at
    behind_newline = at
    while p < end:
        kind, length = class_at(p, end, classes)
        if kind != WHITE:
            break
        last = p
        p += length
        if is_newline(load_u8(last)):
            behind_newline = p
    if pattern == CL100K and p == end:
        return end
    if behind_newline > at:
        return behind_newline
    if p == end:
        return end
    return last if last > at else p


@compiled
def next_end(at, end, classes, pattern):
    """End of the pretoken that begins at `at` in a text that ends at `end`."""
    byte = load_u8(at)
    kind, length = class_at(at, end, classes)
    if byte == ord("'") and pattern != O200K:
        contracted = any_contraction(at, end)
        if contracted:
            return at + contracted
    if kind == NUMBER:
        p = at
        for _ in range(1 if pattern == QWEN2 else 3):
            if p >= end:
                break
            kind, length = class_at(p, end, classes)
            if kind != NUMBER:
                break
            p += length
        return p
    if not is_newline(byte):
        p = letters_end(at, kind, length, end, classes, pattern)
        if p > at:
            return p
        start = at + 1 if byte == 0x20 else at
        p = run_end(start, end, classes, PUNCTUATION)
        if p > start:
            while p < end and (is_newline(load_u8(p)) or (pattern == O200K and load_u8(p) == ord("/"))):
                p += 1
            return p
    return max(white_end(at, end, classes, pattern), at + 1)
