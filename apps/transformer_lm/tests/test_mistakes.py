"""What the user can get wrong before a framework is needed: one line, exit code 2, and no run that was half begun."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lm_core.errors import UserError, exit_code_of
from lm_core.run import session
from lm_core.run.folder import RunFolder
from transformer_lm import cli

TEXT = b" the cat sat on the mat \n" * 40
Refusal = Callable[..., str]


def no_backend(_: str) -> Any:
    pytest.fail("a framework is asked for")


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """The line that a command is answered with, in a folder with the dataset `ptb` and no run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for module in (cli, session):
        monkeypatch.setattr(module, "load_backend", no_backend)
    Path("ptb").mkdir()
    for split in ("train", "valid", "test"):
        Path(f"ptb/ptb.{split}.txt").write_bytes(TEXT)

    def refused(*words: str) -> str:
        assert exit_code_of(lambda: cli.run(["--data_dir", "ptb", "--save_dir", "s", *words]), "transformer_lm") == 2
        out, err = capsys.readouterr()
        *notes, line = err.splitlines()
        assert out == ""
        assert line.startswith("transformer_lm: error: ")
        assert not [note for note in notes if "error" in note or "Traceback" in note]
        assert {path.name for path in Path("s").glob("*")} <= {"data", "lock"}, "no run is left"
        return line

    return refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "wikitext-2"], "unknown dataset 'wikitext-2'; did you mean 'wikitext2'?"),
        (["--dataset", "imagenet", "--inference"], "unknown dataset 'imagenet'; known: enwik8, ptb"),
        (["--num_heads", "3"], "--num_heads 3 does not divide --dim 1024"),
        (["--context_size", "1000"], "--context_size 1000 is longer than the train split of ptb, which has 280 tokens"),
        (["--data_dir", "nowhere"], "data_dir nowhere is not there"),
        (["--tokenizer", "bpe:nowhere"], "nowhere"),
        (["--tokenizer", "nowhere"], "there is no tokenizer 'nowhere'"),
        (["--save_dir", "ptb/ptb.test.txt"], "cannot write to save_dir ptb/ptb.test.txt"),
        (["--save_dir", "/proc/s"], "cannot write to save_dir /proc/s"),
        (["--identifier", "abcdef"], "no checkpoint in s has this name; there is: none"),
        (["--inference"], "there is no checkpoint in s: train a model first, or give its --save_dir"),
        (["--num_iter", "3"], "did you mean --num_iters?"),
        (["--dropout", "1"], "--dropout: "),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
    ],
)
def test_a_mistake_is_one_line(refusal: Refusal, words: Sequence[str], said: str) -> None:
    assert said in refusal(*words)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"", "is empty"), (b"no newline", "has no newline"), (TEXT + b"\xff\n", "is not UTF-8: byte 1000")],
)
def test_a_text_that_is_none_is_named(refusal: Refusal, text: bytes, said: str) -> None:
    Path("ptb/ptb.train.txt").write_bytes(text)
    line = refusal()
    assert "ptb/ptb.train.txt" in line
    assert said in line


def test_a_missing_split_is_named(refusal: Refusal) -> None:
    Path("ptb/ptb.valid.txt").unlink()
    assert "has ptb.train.txt but no ptb.valid.txt" in refusal()


def test_an_archive_that_climbs_out_writes_nothing(refusal: Refusal) -> None:
    with tarfile.open("simple-examples.tgz", "w:gz") as archive:
        for name in ("../../ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(TEXT)
            archive.addfile(member, io.BytesIO(TEXT))
    assert "../../ptb.train.txt" in refusal("--data_dir", "simple-examples.tgz")
    assert not list(Path().rglob("ptb.train.txt"))[1:], "the one in ptb alone"


def test_an_archive_that_unpacks_to_absurdly_much_is_refused(refusal: Refusal) -> None:
    with (
        zipfile.ZipFile("enwik8.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("enwik8", "w", force_zip64=True) as file,
    ):
        for _ in range(260):
            file.write(bytes(1 << 20))
    assert "enwik8.zip" in refusal("--dataset", "enwik8", "--data_dir", "enwik8.zip")
    assert not [path for path in Path("s").rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]


class Elsewhere:
    """A backend that trains nothing."""

    def memory(self, step: Any) -> None:
        return None

    def describe(self, step: Any) -> str:
        if step.device == "gpu":
            raise UserError("device gpu: there is no GPU here; use --device cpu")
        return "nothing"

    def build(self, *_: Any) -> "Elsewhere":
        return self

    def choices(self) -> dict[str, str]:
        return {}


def test_a_model_that_does_not_fit_the_memory_is_refused_before_anything_is_written(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "load_backend", lambda _: Elsewhere())
    monkeypatch.setattr(Elsewhere, "memory", lambda self, step: 1 << 20)
    said = refusal("--dim", "1024")
    assert "training needs at least" in said
    assert "the device has 1 MiB: lower --dim" in said


def test_a_gpu_that_is_not_there_is_said_with_the_flag(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_backend", lambda _: Elsewhere())
    assert refusal("--gpu").endswith("--gpu: there is no GPU here; use the CPU with --no_gpu")


@pytest.mark.parametrize("at", [(RunFolder, "prepare"), (cli, "make_folder")])
def test_a_run_that_cannot_be_written_leaves_nothing(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, at: tuple[Any, str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "load_backend", lambda _: Elsewhere())
    monkeypatch.setattr(*at, full)
    assert refusal("--dim", "16").endswith("cannot write to s: No space left on device")
