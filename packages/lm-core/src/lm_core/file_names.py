r"""File names that are not UTF-8, in text files.

A file's name is bytes. In a string of Python, a byte that is not UTF-8 is a lone surrogate (PEP 383), which no text
file and no parser takes; here is how such a name goes through all of them and comes back.

    TOML            the byte itself, and a comment that says so      toml_document, toml_bytes, toml_text
    JSON            the surrogate's escape, as `\udce9`              json_text
    a parser        a character of a private plane                   held, given_back
    a person's eye  `\xe9`                                           lm_core.terminal
"""

import json
from collections.abc import Mapping
from typing import Any

import tomli_w

_NOTE = "# Names of files that are not UTF-8 stand here as their bytes, so this file is not UTF-8 either.\n"
_ODD = [*range(0xDC80, 0xDD00)]
_HELD = {code: 0xF0000 + code for code in _ODD}
_BACK = {held: code for code, held in _HELD.items()}


def toml_document(values: Mapping[str, Any]) -> str:
    """The values as TOML, for `toml_bytes`."""
    text = tomli_w.dumps(values)
    return _NOTE + text if has_odd_bytes(text) else text


def toml_bytes(text: str) -> bytes:
    """Encode a TOML document as the bytes of a file."""
    return text.encode("utf-8", "surrogateescape")


def toml_text(data: bytes) -> str:
    """The TOML document that a file holds, without a byte-order mark.

    Raises:
        UnicodeDecodeError: when it is not UTF-8, and does not say that it is not.
    """
    return data.decode("utf-8-sig", "surrogateescape" if _NOTE.encode() in data else "strict")


def json_text(value: Any) -> str:
    """The value as JSON on one line, in characters that every encoding of Unicode has."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # \\udce9 is how JSON writes it, too


def has_odd_bytes(text: str) -> bool:
    """Whether a string has bytes of a name that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def held(text: str) -> str:
    """The string as a parser takes it, until `given_back`."""
    return text.translate(_HELD)


def given_back(text: str) -> str:
    """The string that was `held`."""
    return text.translate(_BACK)
