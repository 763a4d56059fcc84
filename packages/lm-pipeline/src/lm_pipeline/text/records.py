"""Shared code of the formats with records: reading one at a time, and turning it into a document or a flaw.

record --parse--> value --fields--> document --> a piece, or a flaw where it is skipped
"""

import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

from lm_pipeline.text.documents import REPLACED, BadRecord, Flaw, Piece, Place, Rules, judged, valid_utf8
from lm_pipeline.text.fields import document_of

_REST = 1 << 20


def bounded_lines(file: BinaryIO, most: int) -> Iterator[tuple[bytes, int]]:
    """Each line and its length; of one that has more than `most` bytes, only its beginning is held."""
    while line := file.readline(most + 1):
        size = len(line)
        while size > most and not line.endswith(b"\n") and (rest := file.readline(_REST)):
            size += len(rest)
            if rest.endswith(b"\n"):
                break
        yield line, size


def too_long(size: int, rules: Rules) -> BadRecord:
    """The complaint about a record of `size` bytes."""
    return BadRecord("too long", f" has {size:,} bytes: more than max_record_bytes = {rules.max_record_bytes:,}")


def from_json(data: bytes, size: int, offset: int, rules: Rules) -> tuple[bytes, int]:
    """The document of a JSON record of `size` bytes, at `offset` of its file; and how much was replaced in it.

    Raises:
        BadRecord: when there is none.
    """
    if size > rules.max_record_bytes:
        raise too_long(size, rules)
    text, replaced = valid_utf8(data, rules.errors, offset)
    try:
        record = json.loads(text.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise BadRecord("not JSON", f" is not valid JSON: {error}") from None
    document, more = document_of(record, rules)
    return document, replaced + more


def taken(
    make: Callable[[], tuple[bytes, int]], file: str, where: str, after: Place, rules: Rules
) -> Iterator[Piece | Flaw]:
    """A record as pieces and flaws; an empty document is dropped.

    Raises:
        UserError: for a bad one, with on_bad="stop".
    """
    try:
        document, replaced = make()
    except BadRecord as bad:
        yield judged(bad, file, where, after, rules)
        return
    if replaced:
        yield Flaw(REPLACED, where, after, replaced)
    if document:
        yield Piece(document, True, after)
