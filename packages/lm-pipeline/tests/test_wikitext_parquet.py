"""WikiText in the parquet files that the Hub has gives the published text, to the byte."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lm_core.errors import UserError
from lm_pipeline.text.named import DATASETS, SPLITS, DatasetFiles, TextFile, find_dataset

TEXTS = {
    split: f" \n = {split} = \n \n the cat sat on the <unk> mat . \n \n = = zoé = = \n \n".encode() for split in SPLITS
}
FILES = tuple(
    TextFile(name, f"sha256:{hashlib.sha256(text).hexdigest()}")
    for name, text in zip(("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"), TEXTS.values(), strict=True)
)
KNOWN = {name: replace(DATASETS[name], files=FILES) for name in ("wikitext2", "wikitext103")}


def as_the_hub_has_it(text: bytes) -> list[str]:
    """Rows as `datasets` made them of the published text: lines with their ends, blank ones emptied."""
    return [line if line.strip() else "" for line in text.decode().splitlines(keepends=True)]


def write_hub(folder: Path, name: str, texts: dict[str, bytes] = TEXTS, shards: int = 1) -> Path:
    """The files of all splits; the first one in several shards."""
    for split, text in texts.items():
        rows, count = as_the_hub_has_it(text), shards if split == "train" else 1
        for i in range(count):
            path = folder / name.format(split, i, count)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = rows[len(rows) * i // count : len(rows) * (i + 1) // count]
            pyarrow.parquet.write_table(pyarrow.table({"text": part}), path)
    return folder


def find(data_dir: Path, tmp_path: Path, name: str = "wikitext2") -> tuple[DatasetFiles, list[str]]:
    said: list[str] = []
    return find_dataset(name, data_dir, tmp_path / "cache", said.append, datasets=KNOWN), said


def refusal(*arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["{}-{:05}-of-{:05}.parquet", "wikitext-{}.parquet", "{}/{:04}.parquet"])
@pytest.mark.parametrize("inside", ["", "wikitext-2-v1", "wikitext-2-raw-v1"])
def test_the_text_is_made_again_to_the_byte(tmp_path: Path, name: str, inside: str) -> None:
    write_hub(tmp_path / "hub" / inside, name)
    files, said = find(tmp_path / "hub", tmp_path)
    assert {split: files.read(split) for split in SPLITS} == TEXTS
    assert len(said) == 3
    again, said = find(tmp_path / "hub", tmp_path)
    assert (again, said) == (files, [])  # neither written again nor said to be another edition


def test_a_split_of_several_files_is_one_text_and_the_published_edition_comes_first(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub/wikitext-103-v1", "{}-{:05}-of-{:05}.parquet", shards=3)
    write_hub(tmp_path / "hub/wikitext-103-raw-v1", "{}-{:05}-of-{:05}.parquet", dict.fromkeys(SPLITS, b"raw \n"))
    files, _ = find(tmp_path / "hub", tmp_path, "wikitext103")
    assert files.read("train") == TEXTS["train"]
    (tmp_path / "hub/wikitext-103-v1/train-00001-of-00003.parquet").unlink()
    assert "has 2 of the 3 files train-00000-of-00003.parquet" in refusal(tmp_path / "hub", tmp_path, "wikitext103")


def test_another_edition_is_used_and_said(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", "{}-{:05}-of-{:05}.parquet", dict.fromkeys(SPLITS, b"another text \n"))
    files, said = find(tmp_path / "hub", tmp_path)
    assert files.read("test") == b"another text \n"
    assert said[-1].startswith("note: not as published for wikitext2")


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = write_hub(tmp_path / "hub", "{}-{:05}-of-{:05}.parquet")
    path = hub / "test-00000-of-00001.parquet"
    good = path.read_bytes()
    path.unlink()
    assert "is not complete" in refusal(hub, tmp_path)
    damaged = f"input {path} is damaged, or not parquet"
    path.write_bytes(good[:-10])
    assert damaged in refusal(hub, tmp_path)
    schema = 8 + int.from_bytes(good[-8:-4], "little")
    path.write_bytes(b"PAR1".ljust(len(good) - schema, b"\xff") + good[-schema:])
    assert damaged in refusal(hub, tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"page": ["a"]}), path)
    assert f"{path} has no column 'text' of text" in refusal(hub, tmp_path)
    assert not list((tmp_path / "cache").rglob("*.new"))
    path.write_bytes(good)
    (empty := tmp_path / "empty").mkdir()
    assert "{train,validation,test}-00000-of-00001.parquet" in refusal(empty, tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "is parquet, which needs pyarrow: pip install pyarrow" in refusal(hub, tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("copy.txt", "text".encode("utf-16"), "is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8)"),
        ("copy.jsonl", b'{"text": "a"}', "is jsonl by its name, and not plain text"),
        ("copy", b"PAR1", "is a table (parquet): give a plain text"),
    ],
)
def test_a_copy_that_is_not_plain_text_is_refused(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        find_dataset("tinyshakespeare", tmp_path / name, tmp_path / "cache", print)
    assert said in str(caught.value)
