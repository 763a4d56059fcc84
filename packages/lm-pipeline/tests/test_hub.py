"""Data sets of the Hugging Face hub, read by its own library: here from a folder, which it reads as it does the hub."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lm_core.data.shards import ShardedIds
from lm_core.errors import UserError
from lm_pipeline.commands import make_data
from lm_pipeline.text import hub
from lm_pipeline.text.documents import Flaw, Piece, Place, Rules
from lm_pipeline.text.hub import HubName, read_hub, revision_of
from lm_pipeline.text.inputs import find_inputs
from lm_pipeline.tokens.config import MakeDataConfig

datasets = pytest.importorskip("datasets")
TEXTS = [f"document {i}: it's naïve" for i in range(30)]
SKIP = Rules(on_bad="skip")
START = Place()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the machine's cache, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "STATE_EVERY", 4)
    yield
    monkeypatch.undo()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of three parquet files, with an empty document and one that is null."""
    folder = tmp_path / "data"
    folder.mkdir()
    texts: list[str | None] = [*TEXTS[:15], "", None, *TEXTS[15:]]
    for i in range(3):
        part = texts[11 * i : 11 * (i + 1)]
        table = pyarrow.table({"text": part, "n": list(range(len(part)))})
        pyarrow.parquet.write_table(table, folder / f"train-{i:05d}-of-00003.parquet", row_group_size=4)
    return folder


def read(name: str, place: Place = START, rules: Rules = SKIP) -> list[Piece | Flaw]:
    return list(read_hub(name, "", place, rules))


def texts(items: list[Piece | Flaw]) -> list[str]:
    return [item.data.decode() for item in items if isinstance(item, Piece)]


def test_documents_come_in_order_without_the_empty_ones(data: Path) -> None:
    items = read(f"hub:{data}")
    assert texts(items) == TEXTS
    assert [(item.reason, item.where) for item in items if isinstance(item, Flaw)] == [("null", "record 17")]
    with pytest.raises(UserError, match=r"hub:.*, record 17: the field 'text' is not a text but null"):
        read(f"hub:{data}", rules=Rules())


def test_reading_resumes_after_any_record(data: Path) -> None:
    items = read(f"hub:{data}")
    for i, item in enumerate(items):
        rest = read(f"hub:{data}", item.after)
        assert texts(rest) == texts(items[i + 1 :])
        if len(rest) > 6:  # and from there again
            assert texts(read(f"hub:{data}", rest[5].after)) == texts(rest[6:])


def test_files_before_the_place_are_not_read_again(data: Path) -> None:
    last = read(f"hub:{data}")[-3]
    first = data / "train-00000-of-00003.parquet"
    whole = first.read_bytes()
    schema = 8 + int.from_bytes(whole[-8:-4], "little")
    first.write_bytes(b"PAR1" + bytes(len(whole) - 4 - schema) + whole[-schema:])
    assert texts(read(f"hub:{data}", last.after)) == TEXTS[-2:]
    with pytest.raises(UserError, match="reading stopped after record 0"):
        read(f"hub:{data}")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("jsonl", "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS)),
        ("csv", "text,n\n" + "".join(f'"{text}",1\n' for text in TEXTS)),
    ],
)
def test_other_formats_come_through_the_same_door(tmp_path: Path, kind: str, content: str) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    (folder / f"train.{kind}").write_text(content)
    assert texts(read(f"hub:{folder}::train")) == TEXTS


def shards(tmp_path: Path, data: Path, **more: object) -> MakeDataConfig:
    fixed = {"train": [f"hub:{data}"], "tokenizer": "tok", "output": str(tmp_path / "out"), "on_bad": "skip"}
    return MakeDataConfig.parse({**fixed, "shards": True, "shard_bytes": 100, "threads": 1, **more})


def test_a_data_set_becomes_shards_and_a_stopped_call_resumes(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data.make_data(shards(folder, data, output="whole"))
    assert "skipped 1 record: 1 null in hub:" in capsys.readouterr().err

    def stopped(records: Iterator[Any], name: str, number: int, of: Any = hub._next) -> Any:
        if number == 20:
            raise UserError("the network is gone")
        return of(records, name, number)

    with monkeypatch.context() as patch:
        patch.setattr(hub, "_next", stopped)
        with pytest.raises(UserError, match="the network is gone"):
            make_data.make_data(shards(folder, data))
    make_data.make_data(shards(folder, data))
    assert "resuming after" in capsys.readouterr().err
    streams = [ShardedIds(folder / name, "train") for name in ("whole", "out")]
    for stream in streams:
        stream.wait(1 << 40)
    assert streams[0][:].tolist() == streams[1][:].tolist()


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("hub:wikimedia/wikipedia", HubName("wikimedia/wikipedia", None, "train")),
        ("hub:wikimedia/wikipedia:20231101.en", HubName("wikimedia/wikipedia", "20231101.en", "train")),
        ("hub:wikimedia/wikipedia:20231101.en:train", HubName("wikimedia/wikipedia", "20231101.en", "train")),
        ("hub:name::validation", HubName("name", None, "validation")),
    ],
)
def test_a_name_has_up_to_three_parts(name: str, parsed: HubName) -> None:
    assert HubName.parse(name) == parsed


@pytest.mark.parametrize("name", ["hub:", "hub:a:b:c:d"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"input {name}: write hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT"):
        find_inputs([name])


@pytest.mark.parametrize(
    ("suffix", "field", "said"),
    [
        ("", "body", "no field 'body'; set text_field: there are n, text"),
        ("", "txt", "no field 'txt'; set text_field: did you mean 'text'"),
        ("", "n", "the column 'n' holds int64, not text; set text_field to text"),
        (":other", "text", "'other'.*default.*; name them: hub:NAME:CONFIG:SPLIT"),
        ("::test", "text", "Bad split: test. Available splits: .*train.*; name them: hub:NAME:CONFIG:SPLIT"),
    ],
)
def test_a_wrong_column_configuration_or_split_is_named(data: Path, suffix: str, field: str, said: str) -> None:
    with pytest.raises(UserError, match=f"input hub:{re.escape(str(data))}{suffix}: .*{said}"):
        read(f"hub:{data}{suffix}", rules=Rules(field=field, on_bad="skip"))


def test_a_file_that_is_damaged_ends_in_a_line(data: Path) -> None:
    (data / "train-00002-of-00003.parquet").write_bytes(b"PAR1 and nothing that could be read")
    with pytest.raises(
        UserError, match=r"reading stopped after record 22 \(.*run the same command again to resume, or"
    ):
        read(f"hub:{data}")


def test_a_library_that_is_not_installed_and_a_hub_that_is_not_reached_end_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    class Unreachable:
        def dataset_info(self, *_: object, **__: object) -> None:
            raise ConnectionError("name or service not known\nand a trace")

    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    wikipedia = "hub:wikimedia/wikipedia:20231101.en"
    advice = r"or download its files elsewhere and name them, or their folder, as inputs \(parquet, JSON lines, text\)"
    with pytest.raises(
        UserError,
        match=rf"input {wikipedia}: the data set wikimedia/wikipedia cannot be reached \(ConnectionError: name or"
        rf" service not known\): check its name and the network, {advice}",
    ):
        revision_of(wikipedia)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=rf"{wikipedia} needs Hugging Face's datasets: pip install datasets; {advice}"):
        find_inputs([wikipedia])


@pytest.mark.parametrize("name", ["../none", "/none", "a/b/none", "~/none"])
def test_a_folder_that_is_not_there_is_one_line_and_leaves_nothing(folder: Path, name: str) -> None:
    said = f"input hub:{name}: there is no folder {name}, and no data set on the hub can have that name: give the path"
    with pytest.raises(UserError, match=said):
        make_data.make_data(shards(folder, Path(name)))
    assert not (folder / "out").exists()


def test_the_commit_of_a_data_set_is_part_of_the_job(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    import huggingface_hub

    class Hub:
        def dataset_info(self, name: str, timeout: float) -> Any:
            return type("Info", (), {"sha": f"commit of {name}"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    [file] = find_inputs(["hub:some/name", "hub:some/name"]).files
    assert file.identity == ["hub:some/name", "commit of some/name"]
    assert find_inputs([f"hub:{data}"]).files[0].revision == ""
