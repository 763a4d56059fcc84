"""JSON lines: each line is an object, one field of which is a document."""

import difflib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from lm_core.errors import UserError
from transformerlm.corpus.pieces import Piece, Place, Rules, encoded, valid_utf8


def read_jsonl(path: Path, place: Place, rules: Rules) -> Iterator[Piece]:
    """The documents of a file from `place` on; empty lines and empty documents are dropped.

    Raises:
        UserError: for a line that is not such an object, naming it.
        OSError: when the file cannot be read.
    """
    offset, number = place.offset, place.record
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            number += 1
            text = valid_utf8(line, rules.errors, str(path), offset).decode().removeprefix("\ufeff")
            data = _document(text, f"{path}, line {number}", rules)
            offset += len(line)
            if data:
                yield Piece(data, True, Place(offset, number))


def _document(line: str, where: str, rules: Rules) -> bytes:
    if not line.strip():
        return b""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a JSON object with a field {rules.field!r}")
    if rules.field not in record:
        raise UserError(f"{where}: {no_such_field(rules.field, record)}")
    text: Any = record[rules.field]
    if not isinstance(text, str):
        raise UserError(f"{where}: the field {rules.field!r} is not a text but {json.dumps(text)[:40]}")
    return encoded(text, rules.errors, where)


def no_such_field(field: str, known: Collection[str]) -> str:
    """What to say when a document's field or column is not there."""
    near = difflib.get_close_matches(field, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known)[:20]) or 'none'}"
    return f"no field {field!r}; set text_field: {hint}"
