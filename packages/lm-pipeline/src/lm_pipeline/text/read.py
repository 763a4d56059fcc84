"""Reading any file of the corpus, and noticing when it changes under the reader."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from lm_core.errors import UserError
from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.formats import TABLES, Format, format_of
from lm_pipeline.text.hub import read_hub
from lm_pipeline.text.inputs import InputFile, check_from_front
from lm_pipeline.text.json_list import read_json_list
from lm_pipeline.text.jsonl import read_jsonl
from lm_pipeline.text.plain import read_text
from lm_pipeline.text.separated import read_separated
from lm_pipeline.text.tables import read_table
from lm_pipeline.text.unpacked import DAMAGED, skip, unpacked

READERS: dict[Format, Callable[[BinaryIO, str, Place, Rules], Iterator[Piece | Flaw]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "json": read_json_list,
    "csv": partial(read_separated, ","),
    "tsv": partial(read_separated, "\t"),
}
FROM_THE_TOP = ("csv", "tsv")
"""Their first line is read at every place."""


def read_file(file: InputFile, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The pieces of a file from `place` on, and its flaws; both are functions of what the file holds.

    Raises:
        UserError: when it cannot be read, is malformed, vanished or changed since it was found.
    """
    file.check_unchanged()
    try:
        if file.hub:
            yield from read_hub(str(file.path), file.revision, place, rules)
        elif file.format in TABLES:
            yield from read_table(file.format, file.path, place, rules)
        else:
            yield from _streamed(file, place, rules)
    except OSError as error:
        file.check_unchanged()
        raise UserError(f"cannot read input {file.path}: {error.strerror or error}") from None
    except DAMAGED as error:
        file.check_unchanged()
        raise UserError(f"cannot unpack input {file.path}: {error}; it may be damaged") from None
    file.check_unchanged()


def _streamed(file: InputFile, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    with unpacked(file.path) as (stream, head):
        format = file.format or format_of(str(file.path), head, stream=True)
        check_from_front(file.path, format)
        if format not in FROM_THE_TOP:
            skip(stream, place.offset)
        yield from READERS[format](stream, str(file.path), place, rules)
