"""Files are written beside under names of their own: whatever else lies there stays."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import open_scratch, write_files, write_whole
from lm_tokenizer.token_file import TokenFileWriter


def write_ids(path: Path) -> None:
    with TokenFileWriter(path, "uint16", vocab_size=300, fingerprint="f") as file:
        file.write(np.array([1, 2, 3]))


def write_bytes(path: Path) -> None:
    write_whole(path, b"new")


@pytest.mark.parametrize("write", [write_ids, write_bytes])
@pytest.mark.parametrize("name", ["x.npy.new", "x.npy.json.new", "x.npy.part", "x.npy.tmp", ".x.npy.new"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_lies_beside_stays_as_it_is(tmp_path: Path, write: object, name: str, kind: str) -> None:
    (tmp_path / "else").write_text("mine")
    mine = tmp_path / name
    if kind == "folder":
        mine.mkdir()
        mine /= "mine.txt"
    mine.symlink_to(tmp_path / "else") if kind == "link" else mine.write_text("mine")
    write(tmp_path / "x.npy")  # type: ignore[operator]
    assert mine.read_text() == (tmp_path / "else").read_text() == "mine"
    assert mine.is_symlink() == (kind == "link")
    assert (tmp_path / "x.npy").is_file()


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    dead, file = open_scratch(path)
    file.close()
    living, file = open_scratch(path)
    assert not dead.exists()
    others = [tmp_path / f".y.npy.{16 * '0'}.new", tmp_path / ".x.npy.mine.new"]
    for other in others:
        other.touch()
    with file:
        write_whole(path, b"new")
        assert sorted(tmp_path.iterdir()) == sorted([path, living, *others])
    write_whole(path, b"newer")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_files_that_belong_together_all_change_or_none_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"a": b"old", "b": b"old"})
    with monkeypatch.context() as patch:
        left = [2]

        def full(_: int) -> None:
            left[0] -= 1
            if not left[0]:
                raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(TokenizerError, match="b: cannot be written: No space left on device"):
            write_files(tmp_path, {"a": b"new", "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


def test_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 127)
    write_whole(path, b"1")
    write_whole(path, b"2")
    assert [path.read_bytes()] == [found.read_bytes() for found in tmp_path.iterdir()]


@pytest.mark.parametrize("number", [22, 95])
def test_a_shared_folder_that_cannot_be_flushed_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def of_files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    write_ids(tmp_path / "x.npy")
    write_bytes(tmp_path / "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.npy.json", "y"]
