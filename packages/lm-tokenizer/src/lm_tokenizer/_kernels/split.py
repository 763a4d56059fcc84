"""Pretokenization by the patterns behind GPT-2's, 64 bytes at a time; `scan` does GPT-2's.

    64 bytes --wide compares--> one bit a byte for each class --shifts--> one bit a byte: a pretoken starts here

Where a pretoken starts follows from the classes of a few bytes before, as in `scan`. What does not is rare, and makes
a block *hard*: then its pretokens are found one by one (`pretoken.next_end`), from the last start before it. Such a
pretoken may end in a later block: what is before its end starts nothing.
"""

import numpy as np

from lm_tokenizer._kernels.compiled import compiled
from lm_tokenizer._kernels.intrinsics import item_u64, set_item_u64, trailing_zeros
from lm_tokenizer._kernels.pretoken import GPT2, O200K, QWEN2, any_contraction, next_end
from lm_tokenizer._kernels.scan import (
    ALL,
    AP,
    GROUP,
    HIGH,
    INVALID,
    LEADS,
    LO,
    MARKS,
    NL,
    ROW,
    SLASH,
    SP,
    U0,
    U1,
    U2,
    U3,
    U63,
    UP,
    L,
    N,
    W,
    append_starts,
    fill_masks,
    lead_of_last,
    scan_gpt2,
)

U4, U60, U61, U62 = (np.uint64(value) for value in (4, 60, 61, 62))

# What `state` carries from one group to the next, behind what fill_masks keeps there: the masks of the block before,
# and three addresses.
(BEFORE_X, BEFORE_N, BEFORE_W, BEFORE_SP, BEFORE_NL, BEFORE_SLASH, BEFORE_UP, BEFORE_LO, BEFORE_INSIDE, BEFORE_O,
 BEFORE_TAKEN, BEFORE_SINGLE, BEFORE_THIRDS, TO_SET, TO_CLEAR, RESUME, CONTRACTED) = range(7, 24)  # fmt: skip


@compiled
def after(mask, before):
    """The bytes behind those of a mask; `before`: the mask of the block before."""
    return mask << U1 | before >> U63


@compiled
def ends_in_newline(j, behind, row):
    """Whether the white space from bit j on, without line ends, is followed by one: 1, 0, or -1 where not known.

    Args:
        behind: what is not such white space in this block. row: the masks of the next block.
    """
    rest = behind >> np.uint64(j)
    if rest:
        k = j + trailing_zeros(rest)
        return np.int64(item_u64(row - ROW, NL) >> np.uint64(k) & U1)
    white, newlines = item_u64(row, W), item_u64(row, NL)
    rest = ~(white & ~newlines)
    if rest == U0:
        return -1
    return np.int64(newlines >> np.uint64(trailing_zeros(rest)) & U1)


@compiled
def one_by_one(at, start, end, classes, pattern):
    """The starts in the block at `at`, found from the start `start` at or before it, and the first one behind it."""
    found = U0
    stop = min(at + 64, end)
    while start < stop:
        if start >= at:
            found |= U1 << np.uint64(start - at)
        start = next_end(start, end, classes, pattern)
    return found, start


@compiled
def groups_of_three(numbers, before_n, thirds_before, cut):
    """Every third digit from the first of each run on, and whether there is a run of more than three bytes."""
    behind = after(numbers, before_n)
    first = numbers & ~(behind & ~cut)
    carried = thirds_before >> U61
    if cut:
        first &= ~(cut - U1)
        carried = U0
    fourth = numbers & behind & (numbers << U2 | before_n >> U62) & (numbers << U3 | before_n >> U61)
    found = first
    marks = (first << U3 | carried) & fourth
    while marks:
        found |= marks
        marks = (marks << U3) & fourth
    return found, fourth


@compiled
def after_one_character(single, before_single, inside, before_inside):
    """Where a character ends that begins at a bit of `single`. `inside`: bytes of characters but their first."""
    found = after(single, before_single)
    if inside | before_inside:
        bytes_2 = after(inside, before_inside)
        bytes_3 = bytes_2 & (inside << U2 | before_inside >> U62)
        bytes_4 = bytes_3 & (inside << U3 | before_inside >> U61)
        found |= (single << U2 | before_single >> U62) & bytes_2
        found |= (single << U3 | before_single >> U61) & bytes_3
        found |= (single << U4 | before_single >> U60) & bytes_4
    return found


@compiled
def scan_words(origin, position, end, classes, scratch, count, pattern):
    """As `scan.scan_gpt2`, for the other patterns, by number."""
    blocks = min(GROUP, (end - position + 63) >> 6)
    if not fill_masks(position, min(GROUP + 1, ((end - position + 63) >> 6) + 1), end, classes, scratch, True):
        return INVALID
    state = scratch.state
    before_x, before_n, before_w = item_u64(state, BEFORE_X), item_u64(state, BEFORE_N), item_u64(state, BEFORE_W)
    before_sp, before_nl = item_u64(state, BEFORE_SP), item_u64(state, BEFORE_NL)
    before_slash, before_up, before_lo = (
        item_u64(state, BEFORE_SLASH), item_u64(state, BEFORE_UP), item_u64(state, BEFORE_LO))  # fmt: skip
    before_inside, before_o = item_u64(state, BEFORE_INSIDE), item_u64(state, BEFORE_O)
    before_taken, before_single = item_u64(state, BEFORE_TAKEN), item_u64(state, BEFORE_SINGLE)
    before_thirds = item_u64(state, BEFORE_THIRDS)
    to_set, to_clear = item_u64(state, TO_SET), item_u64(state, TO_CLEAR)
    resume, contracted = np.int64(item_u64(state, RESUME)), np.int64(item_u64(state, CONTRACTED))
    for b in range(blocks):
        at = position + b * 64
        row = scratch.masks + b * ROW
        words, numbers, white, spaces = item_u64(row, L), item_u64(row, N), item_u64(row, W), item_u64(row, SP)
        high, newlines = item_u64(row, HIGH), item_u64(row, NL)
        slashes, upper, lower, marks = U0, U0, U0, U0
        if pattern == O200K:
            slashes, upper, lower, marks = (
                item_u64(row, SLASH),
                item_u64(row, UP),
                item_u64(row, LO),
                item_u64(row, MARKS),
            )
            words |= marks
        inside = high & ~item_u64(row, LEADS)
        other = ~(words | numbers | white)
        cut, open_ = U0, ALL  # where an earlier pretoken ends, and the bits that it leaves undecided
        if resume >= at + 64:
            open_ = U0
        elif resume >= at:
            cut = U1 << np.uint64(resume - at)
            open_ = ~((cut << U1) - U1)
        hard = U0

        # Line ends right behind punctuation (in o200k slashes among them) belong to it.
        after_o = after(other, before_o) & ~cut
        ends = newlines | slashes
        begin = newlines & after_o | (before_taken >> U63 & ends & ~cut)
        if cut:
            begin &= ~(cut - U1)
        taken = ends & ~(ends + begin)
        if pattern == O200K:
            if (begin & after(slashes, before_slash)) and slashes & (after(newlines, before_nl) | before_taken >> U63):
                hard |= ALL
        after_taken = after(taken, before_taken) & ~cut

        # White space: where a run begins, its last character, and what follows its last line end.
        plain = white & ~newlines
        before_plain = before_w & ~before_nl
        first = white & ~taken & (~(after(white, before_w) & ~cut) | after_taken)
        after_w, after_high = item_u64(row + ROW, W), item_u64(row + ROW, HIGH)
        last = white & ~(white >> U1 | after_w << U63)
        if (white & high) | (after_w & after_high & U3):
            last = lead_of_last(at, white, high, last, after_w, after_high)
        found = first | last & ~newlines
        begins = plain & after(newlines, before_nl) & ~first & ~cut & open_
        while begins:
            j = trailing_zeros(begins)
            begins &= begins - U1
            newline = ends_in_newline(j, ~plain, row + ROW)
            if newline == 0:
                found |= U1 << np.uint64(j)
            elif newline < 0:
                hard |= U1 << np.uint64(j)

        # Punctuation, and the words that take one character before them.
        opened = other & ~taken & (~after_o | after_taken)
        single = opened & ~after(spaces, before_sp)
        found |= single
        after_x = after(words, before_x) & ~cut
        begins = words & ~after_x
        joined = begins & after_o & after_one_character(single, before_single, inside, before_inside)
        found |= begins & ~joined & ~(after(plain, before_plain) & ~cut)
        if pattern == O200K:
            found |= upper & after(lower, before_lo) & ~cut
            caseless, before_caseless = words & ~upper & ~lower, before_x & ~before_up & ~before_lo
            hard |= upper & after(caseless, before_caseless) & ~cut
            hard |= marks & after_o

        if pattern == QWEN2:
            thirds = numbers & ~inside
        else:
            thirds, fourth = groups_of_three(numbers, before_n, before_thirds, cut)
            if fourth and (numbers | before_n) & (high | before_inside):
                hard |= fourth
        found |= thirds

        found = (found & ~to_clear) | to_set
        to_set = to_clear = U0
        if at == origin:
            found |= U1
        if hard & open_:
            start = origin
            if resume >= at:
                start = resume
            elif count:
                start = np.int64(item_u64(scratch.starts, count - 1))
            found, resume = one_by_one(at, start, end, classes, pattern)
            contracted = 0
        else:
            found = (found & open_) | cut
            apostrophes = item_u64(row, AP) & found
            if pattern == O200K:
                apostrophes &= after_x
            while apostrophes:
                j = trailing_zeros(apostrophes)
                apostrophes &= apostrophes - U1
                length = any_contraction(at + j, end)
                if length and (pattern != O200K or at + j != contracted):
                    mark = U1 << np.uint64(j)
                    span = (U1 << np.uint64(length)) - U1
                    found &= ~(span << np.uint64(j))
                    if pattern != O200K:
                        found |= mark
                    if j + length < 64:
                        found |= mark << np.uint64(length)
                    else:
                        to_clear = span >> np.uint64(64 - j)
                        to_set = U1 << np.uint64(j + length - 64)
                    contracted = at + j + length
        before_x, before_n, before_w, before_sp, before_nl = words, numbers, white, spaces, newlines
        before_slash, before_up, before_lo, before_inside = slashes, upper, lower, inside
        before_o, before_taken, before_single, before_thirds = other, taken, single, thirds
        if at + 64 > end:
            found &= (U1 << np.uint64(end - at)) - U1
        count = append_starts(found, at, scratch.starts, count)
    set_item_u64(state, BEFORE_X, before_x)
    set_item_u64(state, BEFORE_N, before_n)
    set_item_u64(state, BEFORE_W, before_w)
    set_item_u64(state, BEFORE_SP, before_sp)
    set_item_u64(state, BEFORE_NL, before_nl)
    set_item_u64(state, BEFORE_SLASH, before_slash)
    set_item_u64(state, BEFORE_UP, before_up)
    set_item_u64(state, BEFORE_LO, before_lo)
    set_item_u64(state, BEFORE_INSIDE, before_inside)
    set_item_u64(state, BEFORE_O, before_o)
    set_item_u64(state, BEFORE_TAKEN, before_taken)
    set_item_u64(state, BEFORE_SINGLE, before_single)
    set_item_u64(state, BEFORE_THIRDS, before_thirds)
    set_item_u64(state, TO_SET, to_set)
    set_item_u64(state, TO_CLEAR, to_clear)
    set_item_u64(state, RESUME, np.uint64(resume))
    set_item_u64(state, CONTRACTED, np.uint64(contracted))
    return count


@compiled
def scan(origin, position, end, classes, scratch, count, pattern):
    """As `scan.scan_gpt2`, for any of the published patterns, by number."""
    if pattern == GPT2:
        return scan_gpt2(origin, position, end, classes, scratch, count)
    return scan_words(origin, position, end, classes, scratch, count, pattern)
