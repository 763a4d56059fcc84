"""Shards hold the ids of the token files, stay resumable after a kill, and can be read while they are made."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_core.data.shards import ShardedIds, TokenStream, is_written, read_stream_record
from lm_core.data.token_file import TokenFile
from lm_core.errors import UserError
from lm_pipeline.commands import make_data
from lm_pipeline.tokens import encoding, units
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.maker import making_data
from lm_tokenizer import Tokenizer

END = "<|endoftext|>"
DOCUMENTS = [f"Document {i}: it's naïve {i * i}\n" * (1 + i % 7) for i in range(40)]


def config(output: Path, **more: object) -> MakeDataConfig:
    fixed = {"train": ["all.txt"], "tokenizer": "tok", "separator": END, "validation_fraction": 0.2, "shards": True}
    return MakeDataConfig.parse({**fixed, "shard_bytes": 900, "threads": 1, "output": str(output), **more})


@pytest.fixture
def corpus(folder: Path) -> Path:
    (folder / "all.txt").write_text(END.join(DOCUMENTS))
    return folder


def ids_of(folder: Path, split: str) -> list[int]:
    ids = ShardedIds(folder, split)
    ids.wait(1 << 40)
    return ids[:].tolist()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".toml"}


def test_shards_hold_the_ids_of_the_token_files(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data.make_data(config(corpus / "files", shards=False))
    make_data.make_data(config(corpus / "shards"))
    said = capsys.readouterr().out.splitlines()
    record = read_stream_record(corpus / "shards")
    assert record
    assert record.units > 3
    for split in ("train", "validation"):
        file = TokenFile.open(corpus / f"files/{split}.npy")
        assert ids_of(corpus / "shards", split) == file.tokens[:].tolist()
        totals = (record.tokens[split], record.documents[split], record.bytes[split])
        assert totals == (len(file), file.metadata.documents, file.metadata.bytes)
    assert [line.partition(": ")[2] for line in said[:2]] == [line.partition(": ")[2] for line in said[2:]]
    assert not (corpus / "shards/.parts").exists()


def killed_before_write(output: Path, nth: int) -> bool:
    """Make the shards in a fork, which is killed before the `nth` file gets its name; whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork is what is wanted, threads or no threads
        child = os.fork()
    if not child:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            left = [nth]

            def replace(path: Path, to: Any, of: Callable[..., Any] = Path.replace) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return of(path, to)

            Path.replace = replace  # type: ignore[assignment, method-assign]
            make_data.make_data(config(output))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_any_file_and_run_again_the_shards_are_the_same(corpus: Path) -> None:
    make_data.make_data(config(corpus / "whole"))
    whole, kills = contents(corpus / "whole"), 0
    while killed_before_write(output := corpus / f"out{kills}", 4 * kills + 1):
        if (output / "job").exists() and not (output / "stream.json").exists():
            before = list(output.glob("??????.json"))
            with pytest.raises(UserError, match="and no process writes it: run the command that makes it again"):
                ShardedIds(output, "train").wait(1 << 40)
            stamps = {path: path.stat().st_mtime_ns for path in before}
            make_data.make_data(config(output))
            assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "finished units stay"
        make_data.make_data(config(output))
        assert contents(output) == whole
        kills += 1
    assert kills > 5


def test_a_finished_stream_is_left_as_it_is_and_a_damaged_shard_made_again(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data.make_data(config(corpus / "out"))
    whole = contents(corpus / "out")
    make_data.make_data(config(corpus / "out"))
    assert "nothing to do" in capsys.readouterr().err
    shard = corpus / "out/000002.train.npy"
    shard.write_bytes(shard.read_bytes()[:-2])
    make_data.make_data(config(corpus / "out"))
    assert "resuming after 2 finished units" in capsys.readouterr().err
    assert contents(corpus / "out") == whole


def test_shards_of_another_config_and_files_of_others_are_refused_and_kept(corpus: Path) -> None:
    make_data.make_data(config(corpus / "out"))
    whole = contents(corpus / "out")
    for more in ({"seed": 1}, {"shard_bytes": 1000}):
        with pytest.raises(UserError, match="out holds shards of another config or other inputs: remove them, or give"):
            make_data.make_data(config(corpus / "out", **more))
    assert contents(corpus / "out") == whole
    (corpus / "mine").mkdir()
    (corpus / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes.txt was not written by make-data: move it away, or give another"):
        make_data.make_data(config(corpus / "mine"))
    with pytest.raises(UserError, match="leaves a split without documents"):
        make_data.make_data(config(corpus / "none", validation_fraction=1e-9))
    assert not (corpus / "none").exists()


def test_the_first_shards_are_read_while_later_ones_are_made(
    corpus: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()

    def add(self: units.Parts, unit: units.Unit, of: Callable[..., None] = units.Parts.add) -> None:
        of(self, unit)
        if len(self.units) == 3:
            stream = TokenStream.open(self.folder, "train", tokenizer.fingerprint)
            seen.extend(stream.tokens[:].tolist())
            assert stream.tokens.total is None

    monkeypatch.setattr(units.Parts, "add", add)
    make_data.make_data(config(corpus / "out"))
    assert seen
    assert seen == ids_of(corpus / "out", "train")[: len(seen)]


def validation_documents(folder: Path, tokenizer: Tokenizer) -> list[str]:
    return sorted(tokenizer.decode(ids_of(folder, "validation")).split(END))[1:]


def test_documents_are_held_out_by_their_text_in_any_order_and_format(corpus: Path, tokenizer: Tokenizer) -> None:
    (corpus / "turned.txt").write_text(END.join(DOCUMENTS[::-1]))
    lines = (json.dumps({"text": text}) + "\n" for text in DOCUMENTS[20:] + DOCUMENTS[:20] + DOCUMENTS[5:6])
    (corpus / "lines.jsonl").write_text("".join(lines))
    by_text = {"held_out_by": "text", "validation_fraction": 0.3, "seed": 2}
    for name in ("all.txt", "turned.txt", "lines.jsonl"):
        make_data.make_data(config(corpus / f"out-{name}", train=[name], **by_text))
    held_out = validation_documents(corpus / "out-all.txt", tokenizer)
    assert 3 < len(held_out) < 25
    assert validation_documents(corpus / "out-turned.txt", tokenizer) == held_out
    again = validation_documents(corpus / "out-lines.jsonl", tokenizer)
    assert set(again) == set(held_out), "a document that comes twice is on one side"
    make_data.make_data(config(corpus / "number", validation_fraction=0.3, seed=2))
    assert validation_documents(corpus / "number", tokenizer) != held_out


def test_a_long_document_stays_on_its_side_through_a_kill(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = END.join(" ".join(f"{name} {i}" for i in range(600)) for name in ("one", "two", "three", "four"))
    (corpus / "all.txt").write_text(text)
    by_text = {"held_out_by": "text", "validation_fraction": 0.5, "shard_bytes": 1 << 9, "seed": 0}
    make_data.make_data(config(corpus / "whole", **by_text))
    record = read_stream_record(corpus / "whole")
    assert record
    assert dict(record.documents) == {"train": 1, "validation": 3}
    assert record.units > 20

    def encode(self: encoding.Encoder, batch: Any, of: Callable[..., Any] = encoding.Encoder.encode) -> Any:
        calls.append(1)
        return 1 / 0 if len(calls) > 2 else of(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(encoding.Encoder, "encode", encode)
        for _ in range(8):
            calls: list[int] = []
            with pytest.raises(ZeroDivisionError):
                make_data.make_data(config(corpus / "out", **by_text))
    make_data.make_data(config(corpus / "out", **by_text))
    for split in ("train", "validation"):
        assert ids_of(corpus / "out", split) == ids_of(corpus / "whole", split)


def test_make_data_as_a_child_makes_the_stream_and_ends_with_the_block(corpus: Path) -> None:
    with making_data(config(corpus / "out")) as maker:
        assert ids_of(corpus / "out", "train")
        assert maker.process.wait() == 0
    for path in (corpus / "out").glob("00000[2-9]*"):
        path.unlink()
    (corpus / "out/stream.json").unlink()
    with making_data(config(corpus / "out")):  # there already, so that a reader need not wait to begin
        assert ids_of(corpus / "out", "train")
    assert read_stream_record(corpus / "out")


def test_a_mistake_of_the_child_is_the_one_line_of_its_parent(corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = making_data(config(corpus / "new", tokenizer="none"))
    with pytest.raises(UserError, match=r"^there is no tokenizer .none.: pass a path"), other:
        pass
    (corpus / "bad.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS) + '{"body": 1}')
    with (
        pytest.raises(UserError, match=r"bad.jsonl, line 41: no field 'text'; set text_field: there are body"),
        making_data(config(corpus / "out", train=["bad.jsonl"], shard_bytes=300)),
    ):
        ids_of(corpus / "out", "train")
    assert "error" not in capfd.readouterr().err


def test_a_reader_finds_whole_units_or_none_while_a_mistake_takes_them_away(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "bad.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS) + '{"body": 1}')
    left = list[int]()

    def look(path: Path, of: Callable[..., None] = Path.unlink, **more: bool) -> None:
        of(path, **more)
        if (corpus / "out/job").exists():
            ids = ShardedIds(corpus / "out", "train")
            while ids._take():
                pass
            left.append(len(ids))

    def listed(folder: Path, of: Callable[..., Any] = Path.iterdir) -> Any:
        return iter(sorted(of(folder), reverse=True))  # as a file system may: the job, shards, their records

    monkeypatch.setattr(Path, "iterdir", listed)
    monkeypatch.setattr(Path, "unlink", look)
    with pytest.raises(UserError, match="line 41: no field 'text'"):
        make_data.make_data(config(corpus / "out", train=["bad.jsonl"], shard_bytes=300), lambda: False)
    assert len(left) > 10
    assert left[-1] == 0
    assert not (corpus / "out").exists()


def test_the_mistake_of_a_child_comes_before_what_its_reader_says_once_the_shards_have_gone(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(corpus / "pipe.jsonl")
    job = corpus / "out/job"

    def asked(output: Path) -> bool:  # by the parent, while the child still holds the lock
        (corpus / "pipe.jsonl").write_text('{"body": 1}')
        return job.exists()

    def read() -> None:
        job.unlink()
        monkeypatch.setattr("lm_pipeline.tokens.maker.is_stream", asked)
        ShardedIds(corpus / "out", "train")

    with (
        pytest.raises(UserError, match=r"pipe.jsonl, line 1: no field 'text'"),
        making_data(config(corpus / "out", train=["pipe.jsonl"], separator="", validation_fraction=0.0)),
    ):
        read()


def test_validation_inputs_come_first_so_that_training_begins_with_the_first_shards(corpus: Path) -> None:
    (corpus / "held.txt").write_text(END.join(DOCUMENTS[:9]))
    both = {"validation": ["held.txt"], "validation_fraction": 0.0}
    make_data.make_data(config(corpus / "files", shards=False, **both))
    make_data.make_data(config(corpus / "shards", **both))
    splits = [json.loads(path.read_text())["splits"] for path in sorted((corpus / "shards").glob("0*[0-9].json"))]
    assert len(splits) > 3
    assert "validation" in splits[0]
    assert all(split == ["train"] for split in splits[1:])
    for split in ("train", "validation"):
        file = TokenFile.open(corpus / f"files/{split}.npy")
        assert ids_of(corpus / "shards", split) == file.tokens[:].tolist()


def test_a_child_that_would_join_its_units_at_the_end_is_refused(corpus: Path) -> None:
    files = making_data(config(corpus / "out", shards=False))
    with pytest.raises(UserError, match="shards: set it to true to train on what make-data writes meanwhile"), files:
        pass


PARENT = """
import sys, time
from lm_core.run.interrupts import Interrupts
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.maker import making_data

with making_data(MakeDataConfig.parse({"train": ["pipe"], "tokenizer": "tok", "output": "out", "shards": True})):
    with Interrupts(echo=0):
        print("waiting", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGKILL]])
def test_a_child_ends_when_its_parent_is_quit_or_killed(corpus: Path, signals: list[signal.Signals]) -> None:
    os.mkfifo(corpus / "pipe")
    words = [sys.executable, "-c", PARENT]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stderr
        assert parent.stdout.readline() == "waiting\n"
        assert is_written(corpus / "out")
        for number in signals:
            parent.send_signal(number)
            parent.stderr.readline()  # the answer to the first, so that the second is not its echo
        parent.communicate()
    for _ in range(600):  # a minute, which only what hangs takes
        if not (corpus / "out").exists():  # which goes after the lock
            break
        time.sleep(0.1)
    assert not is_written(corpus / "out"), "the child has ended"
    assert not (corpus / "out").exists()


def test_a_child_is_ended_with_the_block(corpus: Path) -> None:
    os.mkfifo(corpus / "pipe")
    with making_data(config(corpus / "out", train=["pipe"], separator="", validation_fraction=0.0)) as maker:
        assert maker.process.poll() is None
    assert maker.process.returncode == 128 + signal.SIGTERM
    assert not (corpus / "out").exists(), "there is nothing to resume from"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_core.data.shards.POLL_SECONDS", 0.01)
