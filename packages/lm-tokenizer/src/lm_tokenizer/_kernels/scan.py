"""GPT-2's pretokenization of UTF-8 bytes, 64 at a time; `split` does that of the other published patterns.

    64 bytes --wide compares--> one bit a byte for each class --shifts--> one bit a byte: a pretoken starts here

Every byte of a character carries the class of the character, so a pretoken starts where the class changes: except after
a single space, which belongs to the pretoken that follows; and at the last white space of a run, which is a pretoken by
itself or the space of the next. Contractions are looked at one by one. Non-ASCII characters are decoded, checked, and
looked up; all else is the same for them.

    '(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
"""

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import (
    block_masks,
    count_bits,
    item_u64,
    load_u8,
    set_item_u64,
    store_u8,
    trailing_zeros,
)

OTHER, MARK, NUMBER, WHITE, NO_CHARACTER, UPPER, LOWER, BOTH = range(8)
"""Classes of characters, as the table `classes` (code point -> uint8) gives them. From UPPER on they are letters: of
upper and title case, of lower case, and without case."""
GROUP = 64
"""Blocks of 64 bytes that are scanned together."""
SLACK = 64
"""Elements that are written past the last start."""
INVALID = -1

U0, U1, U2, U3, U63, U64 = (np.uint64(value) for value in (0, 1, 2, 3, 63, 64))
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

# Columns of `masks`, one row a block, from NL on only if `more` is asked for (line ends, slashes, letters by case,
# marks, first bytes of non-ASCII characters); and what `state` carries from one group to the next.
L, N, W, SP, AP, HIGH, NL, SLASH, UP, LO, MARKS, LEADS = range(12)
ROW = 96  # bytes of a row
MASKS = (GROUP + 1) * 12
(SPILL, SPILL_L, SPILL_N, SPILL_W, SPILL_UP, SPILL_LO, SPILL_MARKS,
 BEFORE_L, BEFORE_N, BEFORE_W, BEFORE_SP, TO_SET, TO_CLEAR) = range(13)  # fmt: skip
STATES = 32


@compiled
def decode_character(at, end):
    """Code point and bytes of the non-ASCII character at `at`; a length of 0 where the bytes are not UTF-8."""
    lead = np.int64(load_u8(at))
    if lead < 0xC2 or lead > 0xF4:
        return 0, 0
    length = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    if at + length > end:
        return 0, 0
    second = np.int64(load_u8(at + 1))
    if second & 0xC0 != 0x80:
        return 0, 0
    if length == 2:
        return (lead & 0x1F) << 6 | (second & 0x3F), 2
    third = np.int64(load_u8(at + 2))
    if third & 0xC0 != 0x80:
        return 0, 0
    code = (lead & 0x0F) << 12 | (second & 0x3F) << 6 | (third & 0x3F)
    if length == 3:
        return code, (3 if code >= 0x800 else 0)
    fourth = np.int64(load_u8(at + 3))
    code = (code & 0x7FFF) << 6 | (fourth & 0x3F)
    if fourth & 0xC0 != 0x80 or code < 0x10000 or code > 0x10FFFF:
        return 0, 0
    return code, 4


@compiled
def fill_masks(position, blocks, end, classes, scratch, more):
    """The masks of `blocks` blocks from `position` on; what lies past `end` is white space. False if not UTF-8."""
    state = scratch.state
    spill, spill_l = item_u64(state, SPILL), item_u64(state, SPILL_L)
    spill_n, spill_w = item_u64(state, SPILL_N), item_u64(state, SPILL_W)
    spill_up, spill_lo, spill_marks = item_u64(state, SPILL_UP), item_u64(state, SPILL_LO), item_u64(state, SPILL_MARKS)
    for b in range(blocks):
        at = position + b * 64
        source = at
        if at + 64 > end:
            for j in range(64):
                store_u8(scratch.padded + j, load_u8(at + j) if at + j < end else np.uint8(32))
            source = scratch.padded
        letters, numbers, white, spaces, apostrophes, high, newlines, slashes, upper = block_masks(source)
        lower, marks, leads = letters & ~upper, U0, U0
        if b == GROUP:
            set_item_u64(state, SPILL, spill)
            set_item_u64(state, SPILL_L, spill_l)
            set_item_u64(state, SPILL_N, spill_n)
            set_item_u64(state, SPILL_W, spill_w)
            set_item_u64(state, SPILL_UP, spill_up)
            set_item_u64(state, SPILL_LO, spill_lo)
            set_item_u64(state, SPILL_MARKS, spill_marks)
        if high:
            left = high & ~spill
            letters |= spill_l
            numbers |= spill_n
            white |= spill_w
            upper |= spill_up
            lower |= spill_lo
            marks |= spill_marks
            spill = spill_l = spill_n = spill_w = spill_up = spill_lo = spill_marks = U0
            while left:
                j = trailing_zeros(left)
                code, length = decode_character(at + j, end)
                if length == 0:
                    return False
                kind = load_u8(classes + code)
                ones = (U1 << np.uint64(length)) - U1
                here = ones << np.uint64(j)
                left &= ~here
                leads |= U1 << np.uint64(j)
                over = U0
                if j + length > 64:
                    over = ones >> np.uint64(64 - j)
                    spill = over
                if kind >= UPPER:
                    letters |= here
                    spill_l |= over
                    if kind == UPPER:
                        upper |= here
                        spill_up |= over
                    elif kind == LOWER:
                        lower |= here
                        spill_lo |= over
                elif kind == NUMBER:
                    numbers |= here
                    spill_n |= over
                elif kind == WHITE:
                    white |= here
                    spill_w |= over
                elif kind == MARK:
                    marks |= here
                    spill_marks |= over
                elif kind == NO_CHARACTER:
                    return False
        row = scratch.masks + b * ROW
        set_item_u64(row, L, letters)
        set_item_u64(row, N, numbers)
        set_item_u64(row, W, white)
        set_item_u64(row, SP, spaces)
        set_item_u64(row, AP, apostrophes)
        set_item_u64(row, HIGH, high)
        if more:
            set_item_u64(row, NL, newlines)
            set_item_u64(row, SLASH, slashes)
            set_item_u64(row, UP, upper)
            set_item_u64(row, LO, lower)
            set_item_u64(row, MARKS, marks)
            set_item_u64(row, LEADS, leads)
    return True


@compiled
def contraction(at, end):
    """Bytes of the contraction that begins with the apostrophe at `at`, or 0."""
    if at + 1 >= end:
        return 0
    first = load_u8(at + 1)
    if first == ord("s") or first == ord("t") or first == ord("d") or first == ord("m"):
        return 2
    if at + 2 >= end:
        return 0
    second = load_u8(at + 2)
    if first == ord("l"):
        return 3 if second == ord("l") else 0
    return 3 if (first == ord("v") or first == ord("r")) and second == ord("e") else 0


@compiled
def append_starts(found, at, starts, count):
    """Append the addresses of the bits of a block at `at`; the new count."""
    n = count_bits(found)
    for k in range(8):
        set_item_u64(starts, count + k, np.uint64(at + trailing_zeros(found)))
        found &= found - U1
    if n > 8:
        for k in range(8, 16):
            set_item_u64(starts, count + k, np.uint64(at + trailing_zeros(found)))
            found &= found - U1
        if n > 16:
            for k in range(16, n):
                set_item_u64(starts, count + k, np.uint64(at + trailing_zeros(found)))
                found &= found - U1
    return count + n


@compiled
def scan_gpt2(origin, position, end, classes, scratch, count):
    """Append to `starts` where pretokens start in the next GROUP blocks from `position`, or in the rest before `end`.

    Args:
        origin, end: addresses of the text, which is scanned by itself. position: origin + a multiple of the group's
            bytes. classes: address of the table. scratch: of the thread, its state all zeros at `origin`.

    Returns:
        The new count, or INVALID where the bytes are not UTF-8.
    """
    blocks = min(GROUP, (end - position + 63) >> 6)
    ahead = min(GROUP + 1, ((end - position + 63) >> 6) + 1)
    if not fill_masks(position, ahead, end, classes, scratch, False):
        return INVALID
    state = scratch.state
    before_l, before_n = item_u64(state, BEFORE_L), item_u64(state, BEFORE_N)
    before_w, before_sp = item_u64(state, BEFORE_W), item_u64(state, BEFORE_SP)
    to_set, to_clear = item_u64(state, TO_SET), item_u64(state, TO_CLEAR)
    for b in range(blocks):
        row = scratch.masks + b * ROW
        letters, numbers = item_u64(row, L), item_u64(row, N)
        white, spaces = item_u64(row, W), item_u64(row, SP)
        after_w, after_high = item_u64(row + ROW, W), item_u64(row + ROW, HIGH)
        changes = (
            (letters ^ (letters << U1 | before_l))
            | (numbers ^ (numbers << U1 | before_n))
            | (white ^ (white << U1 | before_w))
        )
        found = changes & (white | ~(spaces << U1 | before_sp))
        last = white & ~(white >> U1 | after_w << U63)  # the last byte of each run of white space
        high = item_u64(row, HIGH)
        if (white & high) | (after_w & after_high & U3):
            last = lead_of_last(position + b * 64, white, high, last, after_w, after_high)
        found |= last
        before_l, before_n, before_w, before_sp = letters >> U63, numbers >> U63, white >> U63, spaces >> U63
        found = (found & ~to_clear) | to_set
        to_set = to_clear = U0
        at = position + b * 64
        if at == origin:
            found |= U1
        apostrophes = item_u64(row, AP) & found
        while apostrophes:
            j = trailing_zeros(apostrophes)
            apostrophes &= apostrophes - U1
            length = contraction(at + j, end)
            # A space before the apostrophe has made it no start, so a pretoken starts here, which is this one.
            if length:
                mark = U1 << np.uint64(j)
                found = (found & ~(mark << U1)) | mark << np.uint64(length)
                if j == 63:
                    to_clear |= U1
                if j + length > 63:
                    to_set |= U1 << np.uint64(j + length - 64)
        if at + 64 > end:
            found &= (U1 << np.uint64(end - at)) - U1
        count = append_starts(found, at, scratch.starts, count)
    set_item_u64(state, BEFORE_L, before_l)
    set_item_u64(state, BEFORE_N, before_n)
    set_item_u64(state, BEFORE_W, before_w)
    set_item_u64(state, BEFORE_SP, before_sp)
    set_item_u64(state, TO_SET, to_set)
    set_item_u64(state, TO_CLEAR, to_clear)
    return count


@compiled
def lead_of_last(at, white, high, last, after_w, after_high):
    """`last` with non-ASCII white space marked at its first byte in place of its last."""
    ends = last & high
    moved = last & ~high
    # Bytes 0 and 1 of the next block may end a character that began in this one.
    next_ends = after_w & ~(after_w >> U1) & after_high & U3
    while ends:
        j = trailing_zeros(ends)
        ends &= ends - U1
        lead = j - 1 if load_u8(at + j - 1) >= 0xC0 else j - 2
        if lead >= 0:
            moved |= U1 << np.uint64(lead)
    while next_ends:
        j = 64 + trailing_zeros(next_ends)
        next_ends &= next_ends - U1
        lead = j - 1 if load_u8(at + j - 1) >= 0xC0 else j - 2
        if lead < 64:
            moved |= U1 << np.uint64(lead)
    return moved
