"""A folder of shards reads as one sequence, also while it is written; what is wrong with it is named."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_core.data import shards
from lm_core.data.batches import SequentialWindows
from lm_core.data.shards import COMPLETE, JOB, ShardedIds, StreamRecord, TokenStream, is_stream, locked
from lm_core.data.stream import StreamWindows
from lm_core.data.token_file import TokenFile, npy_header
from lm_core.errors import UserError

IDS = np.arange(1000, dtype="<u2")


def write_unit(folder: Path, unit: int, ids: np.ndarray, split: str = "train", **more: object) -> None:
    """A unit as make-data writes it: shard, sidecar, record."""
    path = shards.shard_path(folder, unit, split)
    path.write_bytes(npy_header(ids.dtype, len(ids)) + ids.tobytes())
    sidecar: dict[str, object] = {
        "format": "token file 1", "dtype": "uint16", "tokens": len(ids), "documents": 1, "bytes": 2 * len(ids),
        "vocab_size": 1000, "eos_id": 0, "fingerprint": "tokenizer", "source": "job",
        "sha256": hashlib.sha256(ids.tobytes()).hexdigest(), "pair": "", **more,
    }  # fmt: skip
    sidecar["sidecar_sha256"] = hashlib.sha256(json.dumps(sidecar, sort_keys=True).encode()).hexdigest()
    Path(f"{path}.json").write_text(json.dumps(sidecar))
    put(shards.record_path(folder, unit), json.dumps({"splits": [split]}))


def put(path: Path, text: str) -> None:
    """A file that is whole as soon as it is there."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def complete(folder: Path, units: int) -> None:
    record = StreamRecord(source="job", units=units, tokens={}, documents={}, bytes={})
    put(folder / COMPLETE, record.model_dump_json())


def written(folder: Path, sizes: list[int], *, whole: bool = True) -> ShardedIds:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / JOB).write_text("job")
    for unit, size in enumerate(sizes):
        first = sum(sizes[:unit])
        write_unit(folder, unit, IDS[first : first + size])
    if whole:
        complete(folder, len(sizes))
    return ShardedIds(folder, "train")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.data())
def test_rows_across_shards_are_those_of_one_array(tmp_path: Path, sizes: list[int], data: st.DataObject) -> None:
    ids, count = written(tmp_path / "stream", sizes), sum(sizes)
    length = data.draw(st.integers(1, max(1, count)))
    starts = np.array(data.draw(st.lists(st.integers(0, max(0, count - length)), max_size=5 if count else 0)), int)
    assert ids.rows(starts, length).tolist() == IDS[starts[:, None] + np.arange(length)].tolist()
    ids.wait(count + 1)
    assert ids.total == len(ids) == count


def test_batches_do_not_depend_on_the_sizes_of_the_shards(tmp_path: Path) -> None:
    one = StreamWindows(written(tmp_path / "one", [200]), 4, 9, 0, block=6)
    many = StreamWindows(written(tmp_path / "many", [3, 90, 0, 50, 1, 1, 55]), 4, 9, 0, block=6)
    assert all((one.batch(step).inputs == many.batch(step).inputs).all() for step in range(1, 15))


def test_more_shards_than_are_kept_open_are_read(tmp_path: Path) -> None:
    ids = written(tmp_path, [10] * 40)
    assert ids.rows(np.array([5, 395, 5]), 5).tolist() == [[*range(5, 10)], [*range(395, 400)], [*range(5, 10)]]
    assert len(ids._open) <= shards._MOST_OPEN
    assert (ids[17], ids[3:9].tolist(), ids[-1]) == (17, [*range(3, 9)], 399)


@contextmanager
def a_writer(folder: Path) -> Iterator[None]:
    """A lock of another open file, as that of another process."""
    with locked(folder):
        yield


def test_a_reader_waits_for_a_shard_that_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.001)
    ids = written(tmp_path, [10], whole=False)
    asked = threading.Event()
    monkeypatch.setattr(shards, "is_written", lambda folder, of=shards.is_written: (asked.set(), of(folder))[1])

    def write() -> None:
        asked.wait()
        write_unit(tmp_path, 1, IDS[10:30])
        complete(tmp_path, 2)

    with a_writer(tmp_path):
        writer = threading.Thread(target=write)
        writer.start()
        assert ids.rows(np.array([8]), 5).tolist() == [[8, 9, 10, 11, 12]]
        writer.join()
    ids.wait(100)
    assert ids.total == 30


def test_long_waiting_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shards, "_SAID_AFTER", -1.0)
    ids, waits = written(tmp_path, [10], whole=False), []

    def sleep(_: float) -> None:
        waits.append(1)
        if len(waits) == 3:
            complete(tmp_path, 1)

    monkeypatch.setattr(shards.time, "sleep", sleep)
    with a_writer(tmp_path):
        ids.wait(11)
    assert capsys.readouterr().err.count(f"waiting for {tmp_path / '000001.train.npy'}") == 1


def test_a_writer_that_has_ended_before_the_stream_is_complete_is_noticed(tmp_path: Path) -> None:
    ids = written(tmp_path, [10], whole=False)
    with pytest.raises(UserError, match="ends after 1 units without being complete, and no process writes it: run"):
        ids.rows(np.array([8]), 5)
    complete(tmp_path, 1)
    with pytest.raises(IndexError, match="has 10 ids"):
        ids.rows(np.array([8]), 5)


def test_a_folder_that_is_taken_away_ends_in_a_line(tmp_path: Path) -> None:
    ids = written(tmp_path / "stream", [10], whole=False)
    (tmp_path / "stream").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="ends after 0 units without being complete"):
        ids.wait(1)


def damage(folder: Path, how: str) -> None:
    shard = folder / "000001.train.npy"
    if how == "cut":
        os.truncate(shard, shard.stat().st_size - 2)
    elif how == "corrupt":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    elif how == "missing":
        shard.unlink()
    elif how == "record":
        (folder / "000001.json").write_text("{")
    else:
        (folder / "000001.json").unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "000001.train.npy has .* it is cut"),
        ("corrupt", "000001.train.npy is not what was written"),
        ("missing", "there is no token file .*000001.train.npy"),
        ("record", "000001.json is damaged"),
        ("no record", "000001.json is missing from a complete stream"),
    ],
)
def test_a_bad_shard_is_named_and_skipped_only_if_asked(
    tmp_path: Path, how: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, [10, 10, 10])
    damage(tmp_path, how)
    with pytest.raises(UserError, match=f"{said}.*; to train without it, set skip_bad_shards"):
        ShardedIds(tmp_path, "train").wait(30)
    skipping = ShardedIds(tmp_path, "train", skip_bad=True)
    skipping.wait(30)
    assert skipping.total == 20
    assert skipping[:].tolist() == [*range(10), *range(20, 30)]
    assert "warning: skipped a shard" in capsys.readouterr().err


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_unit_that_its_writer_takes_away_is_not_a_bad_one(
    tmp_path: Path, skip_bad: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, [10, 10], whole=False)
    checked = ShardedIds._checked

    def taken_away(ids: ShardedIds, unit: int) -> TokenFile:
        if unit == 1:  # its record has just been read
            shards.record_path(tmp_path, 1).unlink()
            shards.shard_path(tmp_path, 1, "train").unlink()
        return checked(ids, unit)

    monkeypatch.setattr(ShardedIds, "_checked", taken_away)
    with pytest.raises(UserError, match="ends after 1 units without being complete, and no process writes it"):
        ShardedIds(tmp_path, "train", skip_bad=skip_bad).wait(20)
    assert "skipped" not in capsys.readouterr().err


def test_a_shard_that_changes_after_it_was_checked_is_never_skipped(tmp_path: Path) -> None:
    written(tmp_path, [10, 10])
    ids = ShardedIds(tmp_path, "train", skip_bad=True)
    ids.wait(20)
    ids._open.clear()
    write_unit(tmp_path, 1, IDS[500:520])
    with pytest.raises(UserError, match=r"000001.train.npy is another one than when it was first read"):
        ids.rows(np.array([8]), 5)


def test_shards_of_another_tokenizer_or_job_are_refused(tmp_path: Path) -> None:
    written(tmp_path, [10, 10])
    with pytest.raises(UserError, match="was made with another tokenizer"):
        TokenStream.open(tmp_path, "train", "mine")
    write_unit(tmp_path, 1, IDS[:10], fingerprint="other")
    with pytest.raises(UserError, match="was made with another tokenizer"):
        ShardedIds(tmp_path, "train", skip_bad=True).wait(20)
    write_unit(tmp_path, 1, IDS[:10], source="other")
    with pytest.raises(UserError, match="is of another job"):
        ShardedIds(tmp_path, "train").wait(20)
    (tmp_path / COMPLETE).write_text((tmp_path / COMPLETE).read_text().replace("job", "other"))
    with pytest.raises(UserError, match="is of another job than the shards"):
        ShardedIds(tmp_path, "train").wait(20)
    (tmp_path / COMPLETE).write_text("{")
    with pytest.raises(UserError, match="is not the record of a stream"):
        ShardedIds(tmp_path, "train").wait(20)


def test_a_folder_without_shards_or_without_the_split_is_refused(tmp_path: Path) -> None:
    assert not is_stream(tmp_path)
    with pytest.raises(UserError, match="holds no token shards: make them with"):
        TokenStream.open(tmp_path, "train")
    written(tmp_path, [10])
    assert is_stream(tmp_path)
    with pytest.raises(UserError, match="has no shards of the split validation"):
        TokenStream.open(tmp_path, "validation")


def test_an_open_stream_is_described_by_its_first_shard_and_its_job(tmp_path: Path) -> None:
    written(tmp_path, [10, 20])
    stream = TokenStream.open(tmp_path, "train", "tokenizer")
    assert (stream.metadata.sha256, stream.metadata.pair, stream.metadata.vocab_size) == ("job", "job", 1000)
    stream.tokens.wait(30)
    assert [batch.tokens for batch in SequentialWindows(stream.tokens, 2, 10)] == [20, 9]


def test_one_process_writes_a_folder_at_a_time(tmp_path: Path) -> None:
    assert not shards.is_written(tmp_path)
    with locked(tmp_path):
        assert shards.is_written(tmp_path)
        with pytest.raises(UserError, match="is being written by another process"), locked(tmp_path):
            pass
    assert not shards.is_written(tmp_path)
