"""Programs replace and delete what they wrote themselves, and nothing else."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_core.data import token_file
from lm_core.errors import UnreadableError
from lm_pipeline.commands import make_data, sweep
from lm_pipeline.tokens.units import Parts, Progress, Unit

Run = Callable[..., int]
WORDS = ("--tokenizer", "tok", "--output", "out", "--train", "text.txt")


@pytest.fixture
def place(folder: Path) -> Path:
    """A text, and an output folder."""
    (folder / "text.txt").write_text("a text that is long enough")
    (folder / "out").mkdir()
    return folder


def a_file(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    return path


def test_a_file_among_the_parts_that_make_data_did_not_write_stays(
    place: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = a_file(place / "out/.parts/mine.txt")
    assert run_make_data(*WORDS) == 2
    assert "out/.parts/mine.txt was not written by make-data: move it away" in capsys.readouterr().err
    assert [*place.joinpath("out").rglob("*")] == [mine.parent, mine]


def test_parts_that_are_a_link_are_not_followed(
    place: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "elsewhere").mkdir()
    mine = place / "elsewhere/job"
    mine.write_text("mine")
    (place / "out/.parts").symlink_to(place / "elsewhere")
    assert run_make_data(*WORDS) == 2
    assert "out/.parts was not made by make-data" in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_when_nothing_is_to_do_what_lies_among_the_parts_stays(place: Path, run_make_data: Run) -> None:
    assert run_make_data(*WORDS) == 0
    mine = a_file(place / "out/.parts/mine.txt")
    (place / "out/.parts/000000.json").write_text("left by a killed call")
    assert run_make_data(*WORDS) == 0
    assert [*mine.parent.iterdir()] == [mine]


def test_a_config_that_somebody_keeps_in_the_output_folder_stays(
    place: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = place / "out/make_data.toml"
    mine.write_text('# my notes\ntokenizer = "tok"\noutput = "out"\ntrain = ["text.txt"]\n')
    before = mine.read_bytes()
    assert run_make_data("--config", "out/make_data.toml") == 2
    assert "out/make_data.toml has no token files beside it" in capsys.readouterr().err
    assert mine.read_bytes() == before
    shutil.move(mine, place / "mine.toml")
    assert run_make_data("--config", "mine.toml") == 0
    (place / "out/train.npy").unlink()  # as a call leaves it that is killed after it wrote the config
    assert run_make_data("--config", "mine.toml") == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_finished_unit_that_cannot_be_read_just_now_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    parts = Parts(tmp_path / "parts", "job")
    parts.open()
    parts.add(Unit(splits=(), after=Progress()))
    [record] = parts.folder.glob("*.json")
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path == record:
            raise OSError(number, os.strerror(number))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UnreadableError, match=os.strerror(number)):
            Parts(parts.folder, "job").open()
    again = Parts(parts.folder, "job")
    again.open()
    assert again.units == parts.units


@pytest.mark.parametrize("name", ["train.npy.json", "validation.npy.json", "make_data.toml"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_cannot_be_read_just_now_is_neither_made_again_nor_called_damaged(
    place: Path, run_make_data: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, seed: int,
) -> None:  # fmt: skip
    assert run_make_data(*WORDS) == 0
    if name != "train.npy.json":
        (place / "out/validation.npy.json").write_bytes((place / "out/train.npy.json").read_bytes())
    if name == "make_data.toml":
        (place / "out/train.npy").unlink()
    elif name == "validation.npy.json":
        (place / "text.txt").write_text("another text")
    before = {path: path.read_bytes() for path in (place / "out").iterdir()}
    read = token_file.read_regular

    def fail(path: Path, most: int) -> bytes:
        if path.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path, most)

    monkeypatch.setattr(token_file, "read_regular", fail)
    monkeypatch.setattr(make_data, "read_regular", fail)
    capsys.readouterr()
    assert run_make_data(*WORDS, "--seed", seed) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"cannot read out/{name}: {os.strerror(errno.EIO)}" in line
    assert {path: path.read_bytes() for path in (place / "out").iterdir()} == before


@pytest.mark.parametrize("content", ["mine", "[1]", "{}", "3"])
@pytest.mark.parametrize("name", ["train.npy.json", "validation.npy.json"])
def test_a_file_of_a_sidecar_s_name_that_is_none_stays(
    place: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (place / "out" / name).write_text(content)
    assert run_make_data(*WORDS) == 2
    assert f"out/{name} is not a sidecar of a token file" in capsys.readouterr().err
    assert (place / "out" / name).read_text() == content


def test_a_file_system_without_locks_is_written_to(
    place: Path, run_make_data: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert run_make_data(*WORDS) == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == ["make_data.toml", "train.npy", "train.npy.json"]


def test_a_table_that_no_sweep_wrote_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "s.yaml").write_text("program: transformerlm-train\nmethod: grid\nparameters: {seed: {values: [1]}}\n")
    (place / "out/sweep.csv").write_text("my,own,table\n")
    monkeypatch.setattr("sys.argv", ["sweep", "--sweep", "s.yaml", "--save_dir", "out"])
    assert sweep.main() == 2
    assert "out/sweep.csv was not written by a sweep" in capsys.readouterr().err
    assert (place / "out/sweep.csv").read_text() == "my,own,table\n"
