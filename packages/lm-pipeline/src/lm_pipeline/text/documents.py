"""Pieces of documents: what the readers yield, and what they need to know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lm_core.errors import UserError

Errors = Literal["strict", "replace"]
OnBad = Literal["stop", "skip"]
Cut = Callable[[bytes], int]
"""The last place in a text at which it can be cut without changing its ids; 0 where there is none."""
REPLACED = "replaced by U+FFFD"
"""The reason of a flaw that costs characters; every other one costs a record."""


@dataclass(frozen=True)
class Place:
    """Position in a file, at which the next piece starts."""

    offset: int = 0
    """Bytes before it, unpacked; for a table a share of the file's bytes, for the progress bar alone."""
    record: int = 0
    """Records before it: lines, items of a list, rows, or documents of a text."""
    inside: bool = False
    """Whether it continues a document that has started."""
    state: str = ""
    """State of a reader that cannot resume from numbers alone."""


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is too long to be held in memory."""

    data: bytes
    """Valid UTF-8."""
    ends: bool
    """Whether the document ends here."""
    after: Place


@dataclass(frozen=True)
class Flaw:
    """A record that was skipped, or a text in which something was replaced."""

    reason: str
    where: str
    """Position in its file."""
    after: Place
    """Position of the next piece: a flaw is a function of the file, as a piece is."""
    count: int = 1
    """Records skipped, or characters replaced."""


@dataclass(frozen=True)
class Rules:
    """Rules by which files become documents."""

    separator: bytes = b""
    """Cuts text files into documents and is dropped; without it, a text file is one document. A line end in it is met
    by either kind, LF or CRLF."""
    field: str = "text"
    """The field or column that holds the document; `a.b` is the field b of the field a, where no field is called so."""
    message_format: str = "{role}: {content}\n"
    """Format of a message, where the field holds a conversation: a list of messages."""
    errors: Errors = "strict"
    """On text that is not Unicode: stop, or replace it by U+FFFD."""
    on_bad: OnBad = "stop"
    """On a record that gives no document: stop, or skip it."""
    max_record_bytes: int = 1 << 28
    """A record of more bytes is bad; documents of a text may have any length."""
    cut: Cut | None = None
    """How to cut a long document; without it, every document is read whole."""
    long: int = 1 << 23
    """Bytes from which on a document is long."""


class BadRecord(Exception):  # noqa: N818  (it becomes a UserError or a Flaw)
    """A record that gives no document."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason, self.said = reason, said
        """The kind of mistake; and the sentence that follows where it is."""


def judged(bad: BadRecord, file: str, where: str, after: Place, rules: Rules) -> Flaw:
    """Turn a bad record into a flaw.

    Raises:
        UserError: with on_bad="stop".
    """
    if rules.on_bad == "skip":
        return Flaw(bad.reason, where, after)
    raise UserError(f"{file}, {where}{bad.said}")


def valid_utf8(data: bytes, errors: Errors, offset: int) -> tuple[bytes, int]:
    """`data`, which begins at byte `offset`, as valid UTF-8; and how many characters were replaced for that.

    Raises:
        BadRecord: with errors="strict", naming the first byte that is not UTF-8.
    """
    if data.isascii():
        return data, 0
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if errors == "replace":
            text = data.decode(errors="replace")
            return text.encode(), text.count("\ufffd") - data.count("\ufffd".encode())
        raise BadRecord(
            "not UTF-8",
            f" is not UTF-8: byte {offset + error.start} is wrong; convert it (iconv -t UTF-8),"
            ' or set errors = "replace"',
        ) from None
    return data, 0


def encoded(text: str, errors: Errors) -> tuple[bytes, int]:
    """A text as UTF-8, and how many characters were replaced for that. A surrogate pair is a character.

    Raises:
        BadRecord: with errors="strict", when it holds a lone surrogate.
    """
    try:
        return text.encode(), 0
    except UnicodeEncodeError as error:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        replaced = joined.count("\ufffd") - text.count("\ufffd")
        if errors == "strict" and replaced:
            raise BadRecord(
                "not Unicode",
                f': character {error.start} is a lone surrogate, which is not text; or set errors = "replace"',
            ) from None
        return joined.encode(), replaced
