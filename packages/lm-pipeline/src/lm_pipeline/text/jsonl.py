"""JSON lines: each line is an object, one field of which is a document."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.records import bounded_lines, from_json, taken


def read_jsonl(file: BinaryIO, name: str, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The documents of a file that stands at `place`; empty lines and empty documents are dropped.

    Raises:
        UserError: for a line that is not such an object, naming it.
        OSError: when the file cannot be read.
    """
    offset, number = place.offset, place.record
    for line, size in bounded_lines(file, rules.max_record_bytes):
        begins, offset, number = offset, offset + size, number + 1
        if line.strip().removeprefix(b"\xef\xbb\xbf"):
            make = partial(from_json, line, size, begins, rules)
            yield from taken(make, name, f"line {number}", Place(offset, number), rules)
