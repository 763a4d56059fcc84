"""A mistake in the text leaves the output as it was: what this start made goes, what an earlier one made stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lm_core.disk.files import write_whole
from lm_core.errors import UnreadableError, UserError
from lm_pipeline.commands.make_data import make_data
from lm_pipeline.text.documents import Piece
from lm_pipeline.tokens import encoding, units
from lm_pipeline.tokens.config import MakeDataConfig

END = "<|endoftext|>"
TEXTS = [f"Document {i}: it's naïve {i * i}\n" * (1 + i % 7) for i in range(40)]


def config(**more: object) -> MakeDataConfig:
    fixed = {"tokenizer": "tok", "separator": END, "output": "made/out", "shards": True, "shard_bytes": 300}
    return MakeDataConfig.parse({**fixed, "threads": 1, **more})


@pytest.fixture
def texts(folder: Path) -> Path:
    """Inputs, sound and not."""
    (folder / "good.txt").write_text(END.join(TEXTS))
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text(END * 5)
    lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS)
    (folder / "good.jsonl").write_text(lines)
    (folder / "cut.jsonl").write_text(lines + '{"text": "and no')
    table = pyarrow.table({"text": TEXTS, "n": list(range(len(TEXTS)))})
    pyarrow.parquet.write_table(table, folder / "good.parquet", row_group_size=10)
    whole = (folder / "good.parquet").read_bytes()
    schema = 8 + int.from_bytes(whole[-8:-4], "little")
    (folder / "torn.parquet").write_bytes(whole[: len(whole) // 3].ljust(len(whole) - schema, b"\0") + whole[-schema:])
    (folder / "cut.parquet").write_bytes(whole[:-20])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "empty text": ({"train": ["empty.txt"]}, "the inputs hold no text: empty.txt"),
    "empty documents": ({"train": ["blank.txt"]}, "the inputs hold no text: blank.txt"),
    "empty validation text": (
        {"train": ["good.txt"], "validation": ["empty.txt"]}, "one of train and validation has no text"
    ),
    "empty training text": (
        {"train": ["blank.txt"], "validation": ["good.txt"]}, "one of train and validation has no text"
    ),
    "nothing held out": ({"train": ["good.txt"], "validation_fraction": 1e-9}, "leaves a split without documents"),
    "no such field": ({"train": ["good.jsonl"], "text_field": "body"}, "line 1: no field 'body'"),
    "field of another type": ({"train": ["good.jsonl"], "text_field": "n"}, "line 1: the field 'n' is not a text"),
    "line cut": ({"train": ["cut.jsonl"]}, "cut.jsonl, line 41 is not valid JSON"),
    "no such column": ({"train": ["good.parquet"], "text_field": "body"}, "good.parquet: no field 'body'"),
    "column of another type": ({"train": ["good.parquet"], "text_field": "n"}, "the column 'n' holds int64, not text"),
    "torn table": ({"train": ["good.parquet", "torn.parquet"]}, "input torn.parquet is damaged.*Corrupt.*: copy or"),
    "cut table": ({"train": ["good.parquet", "cut.parquet"]}, "input cut.parquet is damaged, or not parquet"),
    "no such file": ({"train": ["good.txt", "none.txt"]}, "input none.txt: there is no file or folder"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "said"), MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("shards", [True, False])
def test_a_mistake_leaves_nothing(texts: Path, values: dict[str, Any], said: str, shards: bool) -> None:
    with pytest.raises(UserError, match=said):
        make_data(config(shards=shards, **values), needed=lambda: False)
    assert not (texts / "made").exists()
    (texts / "made/out").mkdir(parents=True)
    with pytest.raises(UserError, match=said):
        make_data(config(shards=shards, **values), needed=lambda: False)
    assert [*(texts / "made").rglob("*")] == [texts / "made/out"], "a folder that was there stays"


def stopped_after(units: int, values: dict[str, Any]) -> None:
    """An earlier start, which was interrupted."""
    of, left = encoding.Encoder.encode, [units]

    def encode(self: encoding.Encoder, batch: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return of(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding.Encoder, "encode", encode)
        with pytest.raises(KeyboardInterrupt):
            make_data(config(**values))


@pytest.mark.parametrize("mistake", ["line cut", "torn table", "nothing held out"])
@pytest.mark.parametrize("shards", [True, False])
def test_the_units_of_an_earlier_start_stay(texts: Path, mistake: str, shards: bool) -> None:
    values, said = MISTAKES[mistake]
    stopped_after(3, {**values, "shards": shards})
    before = contents(texts / "made")
    assert len([name for name in before if name.endswith("00.json")]) == 1
    with pytest.raises(UserError, match=said):
        make_data(config(shards=shards, **values), needed=lambda: False)
    assert contents(texts / "made") == before


def test_units_stay_where_a_run_stands_on_them_or_the_next_try_may_go_well(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, said = MISTAKES["line cut"]
    with pytest.raises(UserError, match=said):
        make_data(config(**values), needed=lambda: True)
    assert (texts / "made/out/000003.json").exists()

    def reader(*arguments: Any, of: Callable[..., Any] = encoding.read_file) -> Any:
        for number, piece in enumerate(of(*arguments)):
            if number == 20:
                raise UnreadableError("the network is gone")
            assert isinstance(piece, Piece)
            yield piece

    monkeypatch.setattr(encoding, "read_file", reader)
    with pytest.raises(UnreadableError):
        make_data(config(train=["good.txt"], output="made/again"), needed=lambda: False)
    assert (texts / "made/again/000001.json").exists()


@pytest.mark.parametrize("shards", [False, True])
def test_a_call_that_is_ended_as_soon_as_it_has_its_folder_leaves_nothing(
    shards: bool, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal between the mark of the job and the first unit."""

    def ended(path: Path, data: bytes) -> None:
        write_whole(path, data)
        raise SystemExit(143)

    monkeypatch.setattr(units, "write_whole", ended)
    with pytest.raises(SystemExit):
        make_data(config(train=["good.txt"], shards=shards))
    assert not (texts / "made").exists()
