"""Places at which a long text may be cut, so that its parts, each by itself, give the pretokens of the whole.

No pretoken of a published pattern reaches from a character that is not white space to a following space: a space starts
a pretoken or continues a run of white space. The same holds for a newline after a letter or number, and in
GPT-2's pattern after any such character. A custom pattern promises nothing, so its texts are not cut.
"""

from collections.abc import Iterator

from lm_tokenizer.pretokenize import name_of, shadow

WINDOW = 1 << 12
"""Bytes that are searched at a time, from the end."""
_ASCII_WHITE = b" \t\n\v\f\r"
_WHITE = " \t\n\v\f\r\x85"


def last_cut(text: bytes | memoryview, start: int, end: int, pattern: str) -> int | None:
    """The last offset in (start, end) at which UTF-8 text may be cut, or None.

    The byte at `end` need not exist; a cut is always before a space or newline that is before `end`.
    """
    name = name_of(pattern)
    if name is None:
        return None
    while end > start:
        low = max(start, end - WINDOW)
        offset = max(0, low - 4)  # not from `start` on, which may be inside the character before the space
        window = bytes(text[offset:end])
        at = len(window)
        while (at := max(window.rfind(b" ", 0, at), window.rfind(b"\n", 0, at))) > 0:
            if window[at - 1] in _ASCII_WHITE:  # inside a run: on to its first
                at = len(window[:at].rstrip(_ASCII_WHITE)) + 1
                continue
            if offset + at > start and _may_cut(window, at, name == "gpt2"):
                return offset + at
        end = low
    return None


def _may_cut(text: bytes, at: int, is_gpt2: bool) -> bool:
    """Whether the space or newline at `at` may be cut off from the character before it."""
    first = at - 1
    while first > 0 and first > at - 4 and text[first] & 0xC0 == 0x80:
        first -= 1
    before = shadow(text[first:at].decode(errors="replace"))
    if text[at] == 0x20 or is_gpt2:
        return before not in _WHITE
    return before in "Ààªß¼" or (before.isascii() and before.isalnum())


def safe_ends(text: bytes | memoryview, size: int, pattern: str) -> Iterator[int]:
    """Offsets that cut a text into parts of at most `size` bytes where it has places to cut at; the last is its end."""
    start = 0
    while len(text) - start > size:
        cut = last_cut(text, start, start + size, pattern)
        if cut is None:  # no place in this part: look on, part by part
            far = start + 2 * size
            while cut is None and far < len(text):
                cut = last_cut(text, far - size, far, pattern)
                far += size
            if cut is None:
                break
        yield cut
        start = cut
    yield len(text)
