"""Data sets of the Hugging Face hub, read as they are downloaded. Needs Hugging Face's datasets.

    hub:NAME[:CONFIG][:SPLIT] --load_dataset(streaming=True)--> records --records--> documents

A place in a data set is the number of records before it, and the library's own state some records earlier, so that
files before it are not downloaded again. Nothing is kept on disk, and no code of a data set is run. The commit that a
data set had when the command started is read, and is part of what the token files depend on.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lm_core.errors import UnreadableError, UserError
from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.fields import document_of, no_such_field
from lm_pipeline.text.records import taken, too_long

PREFIX = "hub:"
STATE_EVERY = 256
"""Records between two states."""
_SECONDS = 20.0
"""After which the hub counts as not reachable."""
_LOCAL = "or download its files elsewhere and name them, or their folder, as inputs (parquet, JSON lines, text)"
_TEXT = ("string", "large_string", "string_view")


@dataclass(frozen=True)
class HubName:
    """A data set: `wikimedia/wikipedia`, or a folder; its configuration, and its split."""

    dataset: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, name: str) -> "HubName":
        """The parts of `hub:NAME[:CONFIG][:SPLIT]`; the split is train unless it is given.

        Raises:
            UserError: when it is not of this form.
        """
        dataset, *rest = name.removeprefix(PREFIX).split(":")
        if not dataset or len(rest) > 2:
            raise UserError(
                f"input {name}: write hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT, such as"
                " hub:wikimedia/wikipedia:20231101.en:train"
            )
        config, split = (*rest, "", "")[:2]
        return cls(dataset, config or None, split or "train")


def revision_of(name: str) -> str:
    """The commit of a data set on the hub; "" for one that lies in a folder.

    Raises:
        UserError: when datasets is not installed, or the hub or the data set cannot be reached.
    """
    parsed = HubName.parse(name)
    _datasets(name)
    if Path(parsed.dataset).exists():
        return ""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        return str(HfApi().dataset_info(parsed.dataset, timeout=_SECONDS).sha)
    except HFValidationError:
        raise UserError(
            f"input {name}: there is no folder {parsed.dataset}, and no data set on the hub can have that name: give"
            " the path of a folder, or NAME or OWNER/NAME of the hub"
        ) from None
    except Exception as error:  # of several libraries below
        raise UserError(
            f"input {name}: the data set {parsed.dataset} cannot be reached ({_short(error)}):"
            f" check its name and the network, {_LOCAL}"
        ) from None


def read_hub(name: str, revision: str, place: Place, rules: Rules) -> Iterator[Piece | Flaw]:
    """The documents of a data set from `place` on; empty ones are dropped.

    Raises:
        UserError: when it cannot be opened or read, a column is not there or not text, a record gives no document.
    """
    dataset = _opened(name, revision, rules)
    number, known = _resumed(dataset, place)
    with closing(iter(dataset)) as records:
        while (record := _next(records, name, number)) is not None:
            number += 1
            if number <= place.record:
                continue
            if number % STATE_EVERY == 0:
                known = json.dumps([number, dataset.state_dict()])
            after = Place(record=number, state=known)
            yield from taken(partial(_document, record, rules), name, f"record {number}", after, rules)


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"input {name} needs Hugging Face's datasets: pip install datasets; {_LOCAL}") from None
    return datasets


def _opened(name: str, revision: str, rules: Rules) -> Any:
    parsed, datasets = HubName.parse(name), _datasets(name)
    try:
        dataset = datasets.load_dataset(
            parsed.dataset, parsed.config, split=parsed.split, revision=revision or None, streaming=True
        )
    except Exception as error:  # of several libraries below
        if type(error) is ValueError:  # the configuration or the split, with those that there are
            raise UserError(f"input {name}: {_short(error)}; name them: hub:NAME:CONFIG:SPLIT") from None
        raise UserError(f"input {name} cannot be opened ({_short(error)}): check the network, {_LOCAL}") from None
    if dataset.features is None:
        return dataset
    return dataset.select_columns([_column(dataset.features, name, rules.field)])


def _column(features: Any, name: str, field: str) -> str:
    """The column that a field is, or is in."""
    column = field if field in features else field.partition(".")[0]
    if column not in features:
        raise UserError(f"input {name}: {no_such_field(field, list(features))}")
    kind = getattr(features[column], "dtype", None)
    texts = [other for other, feature in features.items() if getattr(feature, "dtype", None) in _TEXT]
    if type(features[column]).__name__ == "Value" and kind not in _TEXT:
        hint = f"; set text_field to {' or '.join(texts[:20])}" if texts else ""
        raise UserError(f"input {name}: the column {column!r} holds {kind}, not text{hint}")
    return column


def _resumed(dataset: Any, place: Place) -> tuple[int, str]:
    """Move a data set to the last state before a place; the number of records before it, and that state."""
    if not place.state:
        return 0, ""
    number, state = json.loads(place.state)
    dataset.load_state_dict(state)
    return int(number), place.state


def _next(records: Iterator[Any], name: str, number: int) -> Any:
    try:
        return next(records, None)
    except Exception as error:  # of several libraries below
        raise UnreadableError(
            f"input {name}: reading stopped after record {number:,} ({_short(error)}): run the same command again to"
            f" resume, {_LOCAL}"
        ) from None


def _document(record: Any, rules: Rules) -> tuple[bytes, int]:
    document, replaced = document_of(record, rules)
    if len(document) > rules.max_record_bytes:
        raise too_long(len(document), rules)
    return document, replaced


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
