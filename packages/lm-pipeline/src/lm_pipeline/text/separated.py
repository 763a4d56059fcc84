"""CSV and TSV: a line of names, then rows, one column of which holds a document. Quotes as Python's `csv` reads them.

After a row that is too long or malformed (a quote that does not close), reading continues after its first line.
"""

import csv
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from lm_core.errors import UserError
from lm_pipeline.text.documents import BadRecord, Flaw, Piece, Place, Rules, encoded, valid_utf8
from lm_pipeline.text.fields import no_such_field
from lm_pipeline.text.records import bounded_lines, taken, too_long
from lm_pipeline.text.unpacked import skip

_MARK = b"\xef\xbb\xbf"


def read_separated(delimiter: str, file: BinaryIO, name: str, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The documents of a file that stands at its beginning, from `place` on; empty rows and documents are dropped.

    Raises:
        UserError: for a column that is not there, or a row without a value in it, naming it.
        OSError: when the file cannot be read.
    """
    rows = _Rows(delimiter, file, rules)
    try:
        header = next(rows, None)
    except BadRecord as bad:
        raise UserError(f"{name}, line 1{bad.said}") from None
    if header is None:
        return
    if rules.field not in header:
        raise UserError(f"{name}: {no_such_field(rules.field, header)}")
    if place.offset:
        rows.skip_to(place)
    while True:
        first = rows.line + 1
        row: list[str] | BadRecord | None
        try:
            row = next(rows, None)
        except BadRecord as bad:
            row = bad
        if row is None:
            return
        if row:
            after = Place(rows.offset, rows.line)
            yield from taken(partial(_document, header, row, rows, rules), name, f"line {first}", after, rules)


def _document(header: list[str], row: list[str] | BadRecord, rows: "_Rows", rules: Rules) -> tuple[bytes, int]:
    if isinstance(row, BadRecord):
        raise row
    if len(row) != len(header):
        raise BadRecord("not as many columns", f" has {len(row)} columns, and the first line {len(header)}")
    document, replaced = encoded(row[header.index(rules.field)], rules.errors)
    return document, replaced + rows.replaced


class _Rows(Iterator[list[str]]):
    """The rows of a file, with the byte and the line that they end at; a row may be several lines."""

    def __init__(self, delimiter: str, file: BinaryIO, rules: Rules) -> None:
        self.delimiter, self.file, self.rules = delimiter, file, rules
        self.offset = self.line = self.replaced = 0
        self._again: list[tuple[bytes, int]] = []  # lines of a bad row, to be read as rows themselves

    def skip_to(self, place: Place) -> None:
        """Continue at a place behind the first line."""
        skip(self.file, place.offset - self.offset)
        self.offset, self.line = place.offset, place.record

    def __next__(self) -> list[str]:
        """The next row, of an empty line an empty one.

        Raises:
            BadRecord: for one that is too long, malformed or not UTF-8; the next one begins at its second line.
            StopIteration: when there is none.
        """
        pulled: list[tuple[bytes, int]] = []
        self.replaced = 0
        csv.field_size_limit(max(csv.field_size_limit(), self.rules.max_record_bytes))
        try:
            return next(csv.reader(self._texts(pulled), delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            self._put_back(pulled[1:])
            raise BadRecord("malformed row", f" is not a row: {error}") from None
        except BadRecord:
            self._put_back(pulled[1:])
            raise

    def _texts(self, pulled: list[tuple[bytes, int]]) -> Iterator[str]:
        """The lines of a row, as many as the parser asks for."""
        total = 0
        for line, size in self._bounded():
            pulled.append((line, size))
            data = line.removeprefix(_MARK) if self.offset == 0 else line
            at, self.offset, self.line, total = self.offset, self.offset + size, self.line + 1, total + size
            if total > self.rules.max_record_bytes:
                raise too_long(total, self.rules)
            text, replaced = valid_utf8(data, self.rules.errors, at)
            self.replaced += replaced
            yield text.decode()

    def _bounded(self) -> Iterator[tuple[bytes, int]]:
        while self._again:
            yield self._again.pop(0)
        yield from bounded_lines(self.file, self.rules.max_record_bytes)

    def _put_back(self, lines: list[tuple[bytes, int]]) -> None:
        self._again[:0] = lines
        self.offset -= sum(size for _, size in lines)
        self.line -= len(lines)
