"""Pieces of documents: what the readers yield, and what they need to know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lm_core.errors import UserError

Errors = Literal["strict", "replace"]
Cut = Callable[[bytes], int]
"""The last place in a text at which it can be cut without changing its ids; 0 where there is none."""


@dataclass(frozen=True)
class Place:
    """Where the next piece of a file begins."""

    offset: int = 0
    """Bytes before it; for parquet a share of the file's bytes, for the progress bar alone."""
    record: int = 0
    """Lines or rows before it."""
    inside: bool = False
    """Whether it goes on with a document that has begun."""


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is too long to be held in memory."""

    data: bytes
    """Valid UTF-8."""
    ends: bool
    """Whether the document ends here."""
    after: Place


@dataclass(frozen=True)
class Rules:
    """How files become documents."""

    separator: bytes = b""
    """Cuts text files into documents and is dropped; without it, a text file is one document."""
    field: str = "text"
    """The field of a JSONL line, or the column of a parquet file, that holds the document."""
    errors: Errors = "strict"
    """What to do with what is not Unicode: stop, or take U+FFFD instead."""
    cut: Cut | None = None
    """How to cut a long document; without it, every document is read whole."""
    long: int = 1 << 23
    """Bytes from which on a document is long."""


def valid_utf8(data: bytes, errors: Errors, where: str, offset: int) -> bytes:
    """`data`, which begins `offset` bytes after the beginning of `where`, as valid UTF-8.

    Raises:
        UserError: with errors="strict", naming the first byte that is not UTF-8.
    """
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if errors == "replace":
            return data.decode(errors="replace").encode()
        raise UserError(
            f"{where} is not UTF-8: byte {offset + error.start} is wrong; convert it (iconv -t UTF-8),"
            ' or set errors = "replace"'
        ) from None
    return data


def encoded(text: str, errors: Errors, where: str) -> bytes:
    """A text as UTF-8.

    Raises:
        UserError: with errors="strict", when it holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        if errors == "replace":
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        raise UserError(
            f'{where}: character {error.start} is a lone surrogate, which is no text; or set errors = "replace"'
        ) from None
