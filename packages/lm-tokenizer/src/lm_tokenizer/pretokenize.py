r"""Pretokenization: the pretokens of a text that byte pair encoding never merges across.

    text --shadow--> one class letter for every non-ASCII character --pattern--> spans --> pretokens of the text

The published patterns speak of Unicode classes (\p{L}, \p{N}, \s), and every regular-expression library knows another
version of Unicode. Here a text is first mapped to its *shadow*: ASCII characters stay, every other character becomes
one Latin-1 character that stands for its class in Unicode 16 (unicode16.txt), the version of `tokenizers` 0.23 and
`tiktoken` 0.14. The patterns are then written for the shadow and run by Python's own `re`. An ASCII text is its own
shadow. Positions in the shadow are positions in the text.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from lm_tokenizer.errors import TokenizerError

if TYPE_CHECKING:
    import numpy as np
    import regex

Split = Callable[[str], list[str]]

# The published patterns, as other libraries read and write them.
# gpt2: Radford et al. 2019, encoder.py; cl100k and o200k: tiktoken's openai_public.py; llama3: its tokenizer.json, a
# cl100k that treats white space before the end of a text otherwise; qwen2: the tokenizer.json of Qwen 2, 2.5 and 3, a
# llama3 of single digits.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# Characters of the shadow: upper and title case, lower case, other letters, marks, numbers, white space, the rest.
_SHADOW = {"U": "À", "L": "à", "O": "ª", "M": "¨", "N": "¼", "S": "\x85", ".": "¬"}
_LONG_S = "ß"  # U+017F, a lower-case letter that is an s where a pattern ignores case
_L, _N, _S = "A-Za-zÀàªß", "0-9¼", r"\t-\r \x85"
_UPPER, _LOWER = "A-ZÀª¨", "a-zàßª¨"
_CONTRACTION = f"'(?:[sdmtSDMT{_LONG_S}]|[lL][lL]|[vV][eE]|[rR][eE])"

_SHADOW_PATTERNS = {
    "gpt2": f"'(?:[sdmt]|ll|ve|re)| ?[{_L}]+| ?[{_N}]+| ?[^{_S}{_L}{_N}]+|[{_S}]+(?![^{_S}])|[{_S}]+",
    "cl100k": rf"{_CONTRACTION}|[^\r\n{_L}{_N}]?+[{_L}]++|[{_N}]{{1,3}}+| ?[^{_S}{_L}{_N}]++[\r\n]*+"
    rf"|[{_S}]++\Z|[{_S}]*[\r\n]|[{_S}]+(?![^{_S}])|[{_S}]",
    "o200k": rf"[^\r\n{_L}{_N}]?[{_UPPER}]*[{_LOWER}]+(?:{_CONTRACTION})?"
    rf"|[^\r\n{_L}{_N}]?[{_UPPER}]+[{_LOWER}]*(?:{_CONTRACTION})?"
    rf"|[{_N}]{{1,3}}| ?[^{_S}{_L}{_N}]+[\r\n/]*|[{_S}]*[\r\n]+|[{_S}]+(?![^{_S}])|[{_S}]+",
    "llama3": rf"{_CONTRACTION}|[^\r\n{_L}{_N}]?[{_L}]+|[{_N}]{{1,3}}| ?[^{_S}{_L}{_N}]+[\r\n]*"
    rf"|[{_S}]*[\r\n]+|[{_S}]+(?![^{_S}])|[{_S}]+",
    "qwen2": rf"{_CONTRACTION}|[^\r\n{_L}{_N}]?[{_L}]+|[{_N}]| ?[^{_S}{_L}{_N}]+[\r\n]*"
    rf"|[{_S}]*[\r\n]+|[{_S}]+(?![^{_S}])|[{_S}]+",
}


@cache
def shadow_table() -> str:
    """Code point -> its character in the shadow, for all 0x110000 of them."""
    from importlib import resources  # here: an ASCII text does not need it

    lines = resources.files("lm_tokenizer").joinpath("unicode16.txt").read_text().split()
    starts = [int(word, 16) for word in lines[::2]]
    ends = [*starts[1:], 0x110000]
    runs = (_SHADOW[name] * (end - start) for start, end, name in zip(starts, ends, lines[1::2], strict=True))
    table = "".join(runs)
    ascii_characters = "".join(map(chr, range(128)))
    return ascii_characters + table[128:0x17F] + _LONG_S + table[0x180:]


def shadow(text: str) -> str:
    """The text with every non-ASCII character replaced by the letter of its class."""
    return text if text.isascii() else text.translate(shadow_table())


def name_of(pattern: str) -> str | None:
    """The name under which a pattern is published, or None: `gpt2` for itself and for its expression."""
    return next((name for name, expression in PATTERNS.items() if pattern in (name, expression)), None)


def expression_of(pattern: str) -> str:
    """The regular expression of a named pattern; a custom expression is itself, checked.

    Raises:
        TokenizerError: when it is neither a known name nor a valid expression.
    """
    if pattern in PATTERNS:
        return PATTERNS[pattern]
    if re.fullmatch(r"[A-Za-z0-9_-]*", pattern):
        raise TokenizerError(f"unknown pattern {pattern!r}: use {', '.join(PATTERNS)} or a regular expression")
    _compiled(pattern)
    return pattern


def splitter(pattern: str) -> Split:
    """A function text -> pretokens, which joined are the text; what a custom pattern leaves out is a pretoken too."""
    name = name_of(pattern)
    if name is None:
        compiled = _compiled(pattern)
        return lambda text: [text[start:end] for start, end in _spans_with_gaps(compiled, text)]
    find = re.compile(_SHADOW_PATTERNS[name])

    def split(text: str) -> list[str]:
        if text.isascii():
            return find.findall(text)
        return [text[match.start() : match.end()] for match in find.finditer(shadow(text))]

    return split


def end_finder(pattern: str) -> Callable[[str], list[int]]:
    """A function text -> the offset in characters at which each of its pretokens ends."""
    name = name_of(pattern)
    if name is None:
        compiled = _compiled(pattern)
        return lambda text: [end for _, end in _spans_with_gaps(compiled, text)]
    find = re.compile(_SHADOW_PATTERNS[name])
    return lambda text: [match.end() for match in find.finditer(shadow(text))]


def byte_ends(ends: list[int], text: str, data: "np.ndarray") -> "np.ndarray":
    """Offsets in a text as offsets in `data`, its UTF-8 bytes (uint8), int64."""
    import numpy as np  # here: a prompt does not pay for it

    offsets = np.array(ends, np.int64)
    if text.isascii():
        return offsets
    starts = np.flatnonzero((data & 0xC0) != 0x80)  # of the characters
    return np.append(starts, len(data))[offsets]


def _compiled(expression: str) -> "regex.Pattern[str]":
    import regex  # here: only a custom pattern needs it

    try:
        compiled = regex.compile(expression)
    except regex.error as error:
        raise TokenizerError(f"the pattern {expression!r} is not a regular expression: {error}") from None
    if compiled.match("") is not None:
        raise TokenizerError(f"the pattern {expression!r} matches the empty text: a pretoken has one character or more")
    return compiled


def _spans_with_gaps(compiled: "regex.Pattern[str]", text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for match in compiled.finditer(text):
        if match.start() > end:
            yield end, match.start()
        if match.end() > match.start():
            yield match.span()
        end = match.end()
    if end < len(text):
        yield end, len(text)
