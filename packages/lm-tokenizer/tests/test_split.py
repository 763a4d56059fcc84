"""The kernels cut a text into the pretokens that the readable twin finds."""

import ctypes
import itertools
import random
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from lm_tokenizer.corpus import Unit
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pretokenize import PATTERNS, splitter
from lm_tokenizer.tally import Table, Tally

# Letters of each case, with and without a contraction in them, marks, numbers of one byte and more, white space,
# punctuation of one to four bytes.
CHARACTERS = [*"aSlLé日ΩǅſʰM1٣१ \t\n\r\u00a0\u3000'/!“", "\u0301", "\u200d", "🙂", "\u0903", "\U0001d7d8"]
PUBLISHED = pytest.mark.parametrize("pattern", PATTERNS)


def pretokens(table: Table) -> Counter[str]:
    """The content of a table of counts."""
    found: Counter[str] = Counter()
    for place, number in zip(*table.pretokens(1), strict=True):
        _, high, _, offset = (ctypes.c_uint64 * 4).from_address(int(place))
        is_long = high >> 63
        at = table._arena.ctypes.data + offset if is_long else int(place)
        found[ctypes.string_at(at, high & ~(1 << 63) if is_long else high >> 56).decode()] = int(number)
    return found


def counted(texts: Iterable[str], pattern: str) -> Counter[str]:
    """The pretokens of texts by the kernels, each text cut by itself."""
    data = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in data])
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    unit = Unit(b"".join(data), begins, ends.astype(np.int64), "text", 0)
    return pretokens(Tally(pattern, 1).count(iter([unit])))


def split(texts: Iterable[str], pattern: str) -> Counter[str]:
    """The pretokens of texts by the readable twin."""
    cut = splitter(pattern)
    return Counter(pretoken for text in texts for pretoken in cut(text))


@PUBLISHED
def test_every_short_text_is_cut_alike(pattern: str) -> None:
    texts = ["".join(text) for text in itertools.product(CHARACTERS, repeat=3)]
    assert counted(texts, pattern) == split(texts, pattern)


@PUBLISHED
def test_every_place_in_a_block_is_cut_alike(pattern: str) -> None:
    rng = random.Random(pattern)
    texts = []
    for size in [30] * 50 + [70] * 50 + [140] * 50 + [9000]:
        some = rng.sample(CHARACTERS, rng.randint(2, len(CHARACTERS)))
        texts.append("".join(rng.choices(some, [rng.random() ** 3 for _ in some], k=size)))
    assert counted(texts, pattern) == split(texts, pattern)


@PUBLISHED
def test_every_character_is_of_its_class(pattern: str) -> None:
    codes = [code for code in (*range(0x80, 0x3100), *range(0x3100, 0x110000, 97)) if not 0xD800 <= code < 0xE000]
    texts = [f"a{character}B1{character}!{character} {character}\n" for character in map(chr, codes)]
    assert counted(texts, pattern) == split(texts, pattern)


@PUBLISHED
@pytest.mark.parametrize("unit", [" ", "\n ", "'", "日A", "!\u0301", "1", "٣", "/\n", "a", "A日"])
def test_a_long_run_takes_time_in_proportion_and_is_cut_alike(pattern: str, unit: str) -> None:
    texts = [unit * 5000, unit * 3000 + "A", "x" + unit * 3000 + "\n"]
    assert counted(texts, pattern) == split(texts, pattern)


@PUBLISHED
def test_bytes_that_are_not_utf8_are_refused(pattern: str) -> None:
    tally = Tally(pattern, 1)
    for broken in (b"\xff", b"\xe6\x97", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80"):
        for before in (b"", b"A" * 63, b"\n" + b" " * 62):
            data = before + broken
            unit = Unit(data, np.array([0]), np.array([len(data)]), "text", 0)
            with pytest.raises(TokenizerError):
                tally.count(iter([unit]))
