"""The save folder: which run goes on, which checkpoint is meant, and what a new run begins with."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from transformer_lm.save_folder import SaveFolder, copy_into


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SaveFolder:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return SaveFolder(tmp_path)


def begin(folder: SaveFolder, name: str = "ptb") -> RunFolder:
    return folder.begin(name, lambda run: run.prepare(""))


def save(run: RunFolder, step: int, weight: float) -> str:
    """A checkpoint's name."""
    arrays = {"a": np.array([weight], np.float32)}
    return Checkpoints(run.checkpoints, keep=9).save(arrays, arrays, {"step": step}).stem


def refusal(folder: SaveFolder, identifier: str) -> str:
    with pytest.raises(UserError) as error:
        folder.find(identifier, pytest.fail)
    return str(error.value)


def test_an_empty_folder_has_nothing_to_go_on_from(folder: SaveFolder) -> None:
    assert folder.find("", pytest.fail) is None


def test_the_run_with_the_highest_number_goes_on_whatever_the_clock_says(folder: SaveFolder) -> None:
    for number in range(1, 12):
        run = begin(folder)
        save(run, number, number)
        for path in (run.path, *run.path.rglob("*")):
            os.utime(path, (2e9 - number, 2e9 - number))
    (folder.path / "999-notes").mkdir()  # holds no run
    found = folder.find("", pytest.fail)
    assert found is not None
    assert found.checkpoint is not None
    assert (found.run.path.name, found.checkpoint.step, found.newest) == ("011-ptb", 11, True)
    assert begin(folder).path.name == "1000-ptb", "no number is used twice"


def test_a_run_appears_whole_or_not_at_all(folder: SaveFolder) -> None:
    def killed(run: RunFolder) -> None:
        run.prepare("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.begin("ptb", killed)
    assert list(folder.path.iterdir()) == []
    left = folder.path / f"unfinished-{'0' * 40}"
    (left / "checkpoints").mkdir(parents=True)  # of a killed process
    mine = folder.path / "unfinished" / "novel.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert [path.name for path in begin(folder).path.iterdir()] == ["config.toml"]
    assert not left.exists()
    assert mine.read_text() == "mine", "another name is not the project's"


def test_a_name_may_be_shortened_or_be_that_of_a_file(folder: SaveFolder) -> None:
    run = begin(folder)
    older, newer = save(run, 1, 1.0), save(run, 2, 2.0)
    for identifier in (older, older[:4], older[:4].upper(), f"{older}.safetensors", f"{older}.metadata"):
        found = folder.find(identifier, pytest.fail)
        assert found is not None
        assert found.checkpoint is not None
        assert (found.checkpoint.path.stem, found.newest) == (older, False)
    found = folder.find(newer, pytest.fail)
    assert found is not None
    assert found.newest


def test_a_name_that_is_none_or_that_of_two_is_refused_with_those_there_are(folder: SaveFolder) -> None:
    run = begin(folder)
    name = save(run, 1, 1.0)
    assert f"no checkpoint in {folder.path} has this name; there is: {name[:12]} (001-ptb)" in refusal(folder, "fffff")
    assert "give 4 letters or more" in refusal(folder, name[:3])
    other = name[:6] + "0" * 34
    (run.checkpoints / f"{other}.metadata").write_bytes((run.checkpoints / f"{name}.metadata").read_bytes())
    assert "more than one checkpoint" in refusal(folder, name[:5])


def test_a_new_run_begins_with_the_checkpoint_and_the_records(folder: SaveFolder) -> None:
    run = begin(folder)
    older = save(run, 1, 1.0)
    save(run, 2, 2.0)
    run.metrics.write_text("records\n")
    found = folder.find(older, pytest.fail)
    assert found is not None
    branch = folder.begin("ptb", lambda new: copy_into(new, found))
    assert branch.metrics.read_text() == "records\n"
    assert [path.stem for path in branch.checkpoints.glob("*.metadata")] == [older]
    again = folder.find(older, pytest.fail)
    assert again is not None
    assert (again.run.path, again.newest) == (branch.path, True), "it is where the copy goes on"


def test_what_is_damaged_is_passed_over_and_named(folder: SaveFolder) -> None:
    first, second, said = begin(folder), begin(folder), list[str]()
    save(first, 1, 1.0)
    name = save(second, 1, 2.0)
    (second.checkpoints / f"{name}.safetensors").write_bytes(b"torn")
    found = folder.find("", said.append)
    assert found is not None
    assert (found.run.path, found.newest) == (first.path, False)
    assert name in said[0]
    assert said[1] == "002-ptb: no checkpoint is intact"
    for path in first.checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="is intact: give --new_model"):
        folder.find("", said.append)


def test_a_run_without_a_checkpoint_is_passed_over_for_the_newest_that_has_one(folder: SaveFolder) -> None:
    first = begin(folder)
    find: Callable[..., object] = folder.find
    assert find("", pytest.fail, saved=True) is None
    found = folder.find("", pytest.fail)
    assert found is not None
    assert (found.run.path, found.checkpoint) == (first.path, None), "there is nothing else to start from"
    name = save(first, 1, 1.0)
    begin(folder)
    for identifier in ("", name):
        said = list[str]()
        found = folder.find(identifier, said.append)
        assert found is not None
        assert (found.run.path, found.is_resumed) == (first.path, True)
        assert said == (["note: 002-ptb is newer and has no checkpoint: skipped"] if not identifier else [])


def test_a_link_among_unfinished_runs_is_not_followed(folder: SaveFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / f"unfinished-{'a' * 40}").symlink_to(tmp_path / "outside")
    run = begin(folder)
    assert not run.path.is_symlink()
    assert (tmp_path / "outside" / "file").exists()


def test_a_run_that_is_a_link_goes_on_as_a_run_of_its_own(folder: SaveFolder, tmp_path: Path) -> None:
    run = begin(folder)
    save(run, 1, 1.0)
    run.path.rename(tmp_path / "elsewhere")
    run.path.symlink_to(tmp_path / "elsewhere")
    found = folder.find("", pytest.fail)
    assert found is not None
    assert (found.newest, found.is_resumed) == (True, False)


def test_a_folder_of_datasets_that_is_a_link_out_is_refused(folder: SaveFolder, tmp_path: Path) -> None:
    own = SaveFolder(tmp_path / "save")
    own.path.mkdir()
    own.data.symlink_to(tmp_path)
    with pytest.raises(UserError, match="data is a link that leads out of"):
        own.hold()


def test_of_two_copies_of_a_checkpoint_the_whole_one_is_taken(folder: SaveFolder) -> None:
    first, second = begin(folder), begin(folder)
    name = save(first, 1, 1.0)
    assert save(second, 1, 1.0) == name
    (second.checkpoints / f"{name}.safetensors").write_bytes(b"torn")
    found = folder.find(name[:8], lambda _: None)
    assert found is not None
    assert (found.run.path, found.is_resumed) == (first.path, False)


def test_a_series_of_runs_holds_folders_that_share_their_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for seed in (1, 2):
        with SaveFolder(tmp_path / f"seed-{seed}", tmp_path / "data").hold():
            pass
