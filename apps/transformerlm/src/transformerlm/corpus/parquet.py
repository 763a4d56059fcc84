"""Parquet files: one column, each row of which is a document. Needs pyarrow, the extra `parquet`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_core.errors import UserError
from transformerlm.corpus.jsonl import no_such_field
from transformerlm.corpus.pieces import Piece, Place, Rules, valid_utf8

ROWS = 256
"""Rows taken at a time."""


def read_parquet(path: Path, place: Place, rules: Rules) -> Iterator[Piece]:
    """The documents of a file from `place` on; empty ones are dropped.

    Raises:
        UserError: for a file that is damaged, a column that is not there or not text, a row without a value.
        OSError: when the file cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"input {path} is parquet, which needs pyarrow: install the extra, transformerlm[parquet]"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_column(file, path, rules.field)
            total, size = file.metadata.num_rows, path.stat().st_size
            for row, data in _rows_from(file, place.record, rules.field):
                where = f"{path}, row {row}"
                if data is None:
                    raise UserError(f"{where}: the column {rules.field!r} has no value")
                if data:
                    yield Piece(valid_utf8(data, rules.errors, where, 0), True, Place(size * row // total, row))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a parquet file that can be read: {error}") from None


def _check_column(file: Any, path: Path, field: str) -> None:
    names = file.schema_arrow.names
    if field not in names:
        raise UserError(f"{path}: {no_such_field(field, names)}")
    kind = str(file.schema_arrow.field(field).type)
    if kind not in ("string", "large_string", "string_view"):
        raise UserError(f"{path}: the column {field!r} holds {kind}, not text")


def _rows_from(file: Any, skip: int, field: str) -> Iterator[tuple[int, bytes | None]]:
    """(number, bytes) of the rows after the first `skip`, counted from 1; whole row groups are skipped unread."""
    import pyarrow

    groups, row = list(range(file.metadata.num_row_groups)), 0
    while groups and row + file.metadata.row_group(groups[0]).num_rows <= skip:
        row += file.metadata.row_group(groups.pop(0)).num_rows
    for batch in file.iter_batches(ROWS, row_groups=groups, columns=[field]):
        for text in batch.column(0).cast(pyarrow.large_binary()):
            row += 1
            if row > skip:
                yield row, text.as_py()
