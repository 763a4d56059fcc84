"""Surrogates in a `str`: a pair is the one character that it encodes in UTF-16, a lone one is not text.

A pair reaches Python from JSON that was cut between two escapes, from JavaScript, or from a Windows file name. tiktoken
joins it too.
"""

import re

from lm_tokenizer.errors import TokenizerError

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def joined(text: str) -> str:
    """The text with each surrogate pair replaced by its character; lone surrogates stay."""
    return _PAIR.sub(_character, text) if _has_surrogate(text) else text


def as_unicode(text: str, errors: str = "strict") -> str:
    """The text with surrogate pairs joined and no surrogate left.

    Raises:
        TokenizerError: for a lone surrogate, with where it is in the text; with errors="replace" it becomes U+FFFD.
    """
    if not _has_surrogate(text):
        return text
    whole = joined(text)
    lone = _SURROGATE.search(whole)
    if lone is None:
        return whole
    if errors == "replace":
        return _SURROGATE.sub("\ufffd", whole)
    raise TokenizerError(
        f"the text holds the lone surrogate U+{ord(lone.group()):04X} at character {place_in(text, lone.start())}, "
        'which UTF-8 cannot encode; repair the text, or pass errors="replace" to read it as U+FFFD'
    )


def utf8(text: str, errors: str = "strict") -> bytes:
    """The UTF-8 bytes of a text. Raises as `as_unicode`."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return as_unicode(text, errors).encode()


def place_in(text: str, place: int) -> int:
    """The offset in a text of what is at the offset `place` in `joined(text)`."""
    for match in _PAIR.finditer(text):
        if match.start() >= place:
            break
        place += 1
    return place


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()  # much faster than a search
    except UnicodeEncodeError:
        return True
    return False


def _character(pair: "re.Match[str]") -> str:
    return pair.group().encode("utf-16", "surrogatepass").decode("utf-16")
