"""Reading any file of the corpus, and noticing when it changes under the reader."""

from collections.abc import Callable, Iterator
from pathlib import Path

from lm_core.errors import UserError
from transformerlm.corpus.inputs import InputFile, Kind
from transformerlm.corpus.jsonl import read_jsonl
from transformerlm.corpus.parquet import read_parquet
from transformerlm.corpus.pieces import Piece, Place, Rules
from transformerlm.corpus.text import read_text

READERS: dict[Kind, Callable[[Path, Place, Rules], Iterator[Piece]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}


def read_file(file: InputFile, place: Place, rules: Rules) -> Iterator[Piece]:
    """The pieces of a file from `place` on.

    Raises:
        UserError: when it cannot be read, is malformed, vanished or changed since it was found.
    """
    file.check_unchanged()
    try:
        yield from READERS[file.kind](file.path, place, rules)
    except OSError as error:
        file.check_unchanged()
        raise UserError(f"cannot read input {file.path}: {error.strerror or error}") from None
    file.check_unchanged()
