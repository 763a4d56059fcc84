"""Bytes of a person's own file -> text: UTF-8, or the encoding that charset-normalizer guesses."""

import re

from lm_pipeline.text.formats import HEAD, compression_of

_MOST_COMMON = "cp1252"
"""Of encodings that are not UTF-8: what browsers take a page for that names none (WHATWG Encoding, "windows-1252")."""


def decoded(data: bytes) -> tuple[str, str | None]:
    """The text without a byte-order mark, and the encoding where it was guessed.

    Raises:
        UnicodeError: when there is none; the message is the reason.
    """
    try:
        text, encoding = data.decode(), None
    except UnicodeDecodeError:
        text, encoding = _guessed(data)
    return text.removeprefix("\ufeff"), encoding


def _guessed(data: bytes) -> tuple[str, str]:
    if compression_of("", data[:HEAD]):
        raise UnicodeError("binary")
    from charset_normalizer import from_bytes  # only where it is needed: it takes its time

    guesses = from_bytes(data)
    best = guesses.best()
    # Short texts fit several encodings equally well; then it is the most common one, and not the first by its name.
    ties = [one for one in guesses if best and (one.chaos, one.coherence) == (best.chaos, best.coherence)]
    best = next((one for one in ties if one.encoding == _MOST_COMMON), best)
    if best is None or re.search("[\ud800-\udfff]", str(best)):
        raise UnicodeError("in no known encoding")
    return str(best), best.encoding
