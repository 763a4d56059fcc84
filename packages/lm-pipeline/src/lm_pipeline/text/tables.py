"""Parquet and Arrow files: one column, each row of which is a document. Needs pyarrow.

A column is text, dictionary-encoded or not; bytes of UTF-8; a text inside of a struct; a list of texts or messages.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lm_core.errors import UserError
from lm_pipeline.text.documents import BadRecord, Flaw, Piece, Place, Rules, valid_utf8
from lm_pipeline.text.fields import no_such_field, written
from lm_pipeline.text.formats import Format
from lm_pipeline.text.records import taken, too_long

ROWS = 256
"""Rows taken at a time."""
_TEXT = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def read_table(format: Format, path: Path, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The documents of a file from `place` on; empty ones are dropped.

    Raises:
        UserError: for a file that is damaged, a column that is not there or not text, a row without a value.
        OSError: when the file cannot be read.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(f"input {path} is {format}, which needs pyarrow: pip install pyarrow") from None
    with damage_named(format, path), ExitStack() as stack:
        opened = _parquet if format == "parquet" else _arrow
        table = opened(path, stack)
        column = _Column(table.schema, path, rules.field)
        yield from _documents(table, place.record, column, path, rules)


@contextmanager
def damage_named(format: Format, path: Path) -> Iterator[None]:
    """A context in which pyarrow reads a file: what it finds damaged becomes a UserError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system; pyarrow raises one without a number for data that it cannot decompress
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"input {path} is damaged, or not {format} ({reason}): copy or download it again, or leave it out"
        ) from None


def _documents(table: "_Table", skip: int, column: "_Column", path: Path, rules: Rules) -> Iterator[Piece | Flaw]:
    for before, array in table.batches(skip, column.name):
        for row, value in enumerate(column.values(array), before + 1):
            if row > skip:
                make = partial(_document, value, rules)
                yield from taken(make, str(path), f"row {row}", Place(table.offset(row), row), rules)


def _document(value: Any, rules: Rules) -> tuple[bytes, int]:
    try:
        value = value.as_py()
    except UnicodeDecodeError as error:
        raise BadRecord("not UTF-8", f" is not UTF-8: {error.reason}") from None
    if value is None:
        raise BadRecord("null", f": the column {rules.field!r} has no value")
    data, replaced = valid_utf8(value, rules.errors, 0) if isinstance(value, bytes) else written(value, rules)
    if len(data) > rules.max_record_bytes:
        raise too_long(len(data), rules)
    return data, replaced


class _Column:
    """The column that a field means, and the way from it to the texts."""

    def __init__(self, schema: Any, path: Path, field: str) -> None:
        self.name, *self._inner = [field] if field in schema.names else field.split(".")
        if self.name not in schema.names:
            raise UserError(f"{path}: {no_such_field(field, schema.names)}")
        kind = schema.field(self.name).type
        for part in self._inner:
            names = [kind.field(i).name for i in range(kind.num_fields)] if _is_struct(kind) else []
            if part not in names:
                raise UserError(f"{path}: {no_such_field(field, [*schema.names, *names])}")
            kind = kind.field(part).type
        self._kind = kind
        if not _holds_text(kind):
            inner = [f"{field}.{kind.field(i).name}" for i in range(kind.num_fields)] if _is_struct(kind) else []
            hint = f"; set text_field to one of {', '.join(inner)}" if inner else ""
            raise UserError(f"{path}: the column {field!r} holds {kind}, not text{hint}")

    def values(self, array: Any) -> Any:
        """The texts (as bytes) or lists of an array, as Arrow's scalars."""
        import pyarrow
        import pyarrow.compute

        for part in self._inner:
            array = pyarrow.compute.struct_field(array, [part])
        if str(self._kind).startswith("dictionary"):
            array = array.dictionary_decode() if hasattr(array, "dictionary_decode") else array
        return array.cast(pyarrow.large_binary()) if str(array.type) in _TEXT else array


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<")


def _holds_text(kind: Any) -> bool:
    if str(kind).startswith("dictionary<"):
        return str(kind.value_type) in _TEXT
    if "list" in str(kind).partition("<")[0]:
        return str(kind.value_type) in _TEXT or _is_struct(kind.value_type)
    return str(kind) in _TEXT


@dataclass(frozen=True)
class _Table:
    schema: Any
    batches: Callable[[int, str], Iterator[tuple[int, Any]]]
    """From a number of rows to skip and a column: (rows before, array) of what follows, or begins a little before."""
    offset: Callable[[int], int]
    """The byte that stands for a row, which is the last one read, in the progress bar."""


def _parquet(path: Path, stack: ExitStack) -> _Table:
    import pyarrow.parquet

    opened = stack.enter_context(path.open("rb"))  # pyarrow takes no name that is not UTF-8
    file = stack.enter_context(pyarrow.parquet.ParquetFile(opened))
    total, size = file.metadata.num_rows, path.stat().st_size

    def batches(skip: int, name: str) -> Iterator[tuple[int, Any]]:
        groups, row = list(range(file.metadata.num_row_groups)), 0
        while groups and row + file.metadata.row_group(groups[0]).num_rows <= skip:  # skipped unread
            row += file.metadata.row_group(groups.pop(0)).num_rows
        for batch in file.iter_batches(ROWS, row_groups=groups, columns=[name]):
            yield row, batch.column(0)
            row += batch.num_rows

    return _Table(file.schema_arrow, batches, lambda row: size * row // total)


def _arrow(path: Path, stack: ExitStack) -> _Table:
    import pyarrow

    source = stack.enter_context(pyarrow.PythonFile(stack.enter_context(path.open("rb"))))
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    reader = stack.enter_context((pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source))

    def batches(skip: int, name: str) -> Iterator[tuple[int, Any]]:
        row = 0
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
            if row + batch.num_rows > skip:
                yield row, batch.column(name)
            row += batch.num_rows

    return _Table(reader.schema, batches, lambda _: int(source.tell()))
