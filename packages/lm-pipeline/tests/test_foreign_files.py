"""A folder that the project fills may hold what is somebody else's: links out of it, and files of other names."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lm_core.disk.files import make_folder, write_whole
from lm_core.disk.untrusted import append_regular, check_inside, open_inside, scratch_file
from lm_core.errors import UserError
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.log import RunLog
from lm_core.run.sinks import wandb
from lm_pipeline.text.named import download, find_dataset


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save({"w": np.full(2, step, np.float32)}, {}, {"step": step})


# Names


@pytest.mark.parametrize(
    "name",
    ["my-best.safetensors", "my-best.metadata", "notes.new", f"{'a' * 40}-copy.safetensors", f"{'A' * 40}.metadata"],
)
def test_pruning_deletes_only_names_that_the_project_gives(tmp_path: Path, name: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    (tmp_path / name).write_bytes(b"mine")
    for left in (f"{'a' * 40}.safetensors.new", f".{'a' * 40}.safetensors.{'0' * 16}.new"):
        (tmp_path / left).write_bytes(b"left by a killed save")
    last = [save(checkpoints, step) for step in (1, 2, 3)][-1]
    assert (tmp_path / name).read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {name, last.name, f"{last.stem}.safetensors"}


def test_a_copy_under_another_name_is_neither_read_nor_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 1)
    for suffix in (".metadata", ".safetensors"):
        (tmp_path / f"my-best{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
    found = checkpoints.newest(pytest.fail)
    assert found is not None
    assert found.path == path


@pytest.mark.parametrize("name", ["x.new", ".x.new", "x.part", "x.tmp", ".x.mine.new", f".y.{'0' * 16}.new"])
@pytest.mark.parametrize("write", [write_whole, lambda path, data: appended(path, data)])
def test_what_lies_beside_a_file_that_is_written_stays(
    tmp_path: Path, name: str, write: Callable[[Path, bytes], object]
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / f".x.{'0' * 16}.new").write_bytes(b"left by a killed save")
    write(tmp_path / "x", b"content")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert (tmp_path / name).read_bytes() == b"mine"
    assert not (tmp_path / f".x.{'0' * 16}.new").exists()


def appended(path: Path, data: bytes) -> None:
    """Added to a file of two names, which is copied."""
    path.write_bytes(b"")
    os.link(path, path.with_name("second name"))
    append_regular(path, data)


def test_a_file_that_a_living_writer_has_in_hand_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with scratch_file(path) as file:
        file.write(b"slow")
        write_whole(path, b"quick")
    assert path.read_bytes() == b"slow"
    assert [*tmp_path.iterdir()] == [path]


# Links


def test_a_link_is_followed_inside_the_folder_and_not_out_of_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "real" / "deep", outside):
        folder.mkdir(parents=True)
    (root / "inner").symlink_to("real")
    (root / "outer").symlink_to(outside)
    (root / "real" / "deep" / "outer").symlink_to("../../../outside")
    (root / "loop").symlink_to("loop")
    (tmp_path / "root-too").symlink_to(root)
    for good in (root, root / "inner" / "deep", root / "new" / "newer", root / "loop"):
        check_inside(good, root)
    check_inside(tmp_path / "root-too" / "inner", tmp_path / "root-too")  # the user's own choice of a place
    for bad in (root / "outer", root / "outer" / "new", root / "inner" / "deep" / "outer", root / ".." / "outside"):
        with pytest.raises(OSError, match="leads out of"):
            make_folder(bad, within=root)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["checkpoints", "tokenizer", "tensorboard", "wandb"])
@pytest.mark.parametrize("there", [True, False])
def test_a_run_does_not_start_where_a_subfolder_is_a_link_out(tmp_path: Path, name: str, there: bool) -> None:
    outside, run = tmp_path / "outside", RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / name).symlink_to(outside)
    if there:
        outside.mkdir()
    with pytest.raises(UserError, match=f"cannot write to save_dir .*run: {name} is a link that leads out of"):
        run.prepare("")
    assert not run.config.exists()
    assert outside.exists() == there


def test_a_link_that_is_put_there_later_stops_the_save(tmp_path: Path) -> None:
    outside, checkpoints = tmp_path / "outside", Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
    outside.mkdir()
    theirs = outside / f"{'b' * 40}.safetensors"
    theirs.write_bytes(b"theirs")
    (tmp_path / "run").mkdir()
    checkpoints.folder.symlink_to(outside)
    with pytest.raises(OSError, match="checkpoints is a link that leads out of"):
        save(checkpoints, 1)
    assert [path.read_bytes() for path in outside.iterdir()] == [b"theirs"]


def test_a_file_that_is_a_link_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "private")
    (folder / "own").write_text("own")
    (folder / "inner").symlink_to("own")
    with pytest.raises(OSError, match="link is a link that leads out"):
        open_inside(folder / "link", folder)
    with open_inside(folder / "inner", folder) as file:
        assert file.read() == b"own"


def test_adding_to_a_file_of_two_names_changes_one_of_them(tmp_path: Path) -> None:
    append_regular(tmp_path / "samples.txt", b"one")
    os.link(tmp_path / "samples.txt", tmp_path / "backup")
    for more in (b" two", b" three"):
        append_regular(tmp_path / "samples.txt", more)
    assert (tmp_path / "samples.txt").read_bytes() == b"one two three"
    assert (tmp_path / "backup").read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_the_part_of_a_download_is_not_written_through_a_link(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    outside, part = tmp_path / "outside", tmp_path / "text.txt.part"
    outside.write_bytes(b"theirs")
    make(part, outside)
    assert download._own_size(part) == 0, "nothing of ours to resume from"
    assert not os.path.lexists(part)
    assert outside.read_bytes() == b"theirs"
    part.write_bytes(b"ours")
    assert download._own_size(part) == 4


def test_a_folder_of_a_dataset_that_is_a_link_out_is_not_downloaded_into(tmp_path: Path) -> None:
    cache, outside = tmp_path / "data", tmp_path / "outside"
    cache.mkdir()
    outside.mkdir()
    (cache / "ptb").symlink_to(outside)
    with pytest.raises(UserError, match="ptb is a link that leads out of"):
        find_dataset("ptb", None, cache, pytest.fail)
    assert not list(outside.iterdir())


def test_a_log_that_is_a_link_out_or_cannot_be_read_just_now_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = '{"kind": "train", "step": 1}\n'
    (tmp_path / "outside").write_text(record)
    run = RunFolder(tmp_path / "run")
    make_folder(run.path)
    run.metrics.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=r"metrics.jsonl is a link that leads out of"):
        RunLog(run.metrics, 1, 1)
    run.metrics.unlink()
    run.metrics.write_text(record)

    def no_descriptor(*_: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("lm_core.run.log.open_inside", no_descriptor)
    with pytest.raises(UserError, match="Too many open files"):
        RunLog(run.metrics, 1, 1)
    assert run.metrics.read_text() == record


def test_what_is_linked_from_elsewhere_is_not_sent_to_wandb(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    folder = tmp_path / "run"
    make_folder(folder / "tokenizer")
    for name in ("wandb_id.txt", "tokenizer/more.txt"):
        (folder / name).symlink_to(tmp_path / "private")
    (folder / "tokenizer" / "vocab.json").touch()
    assert [path.name for path in wandb._own_files(folder / "tokenizer")] == ["vocab.json"]
    with pytest.raises(OSError, match=r"wandb_id.txt is a link that leads out of"):
        wandb._known(folder / "wandb_id.txt", folder)


# The lock


def hard_link(outside: Path, lock: Path) -> None:
    os.link(outside, lock)


def copy(outside: Path, lock: Path) -> None:
    lock.write_bytes(outside.read_bytes())


def pipe(_: Path, lock: Path) -> None:
    os.mkfifo(lock)


@pytest.mark.parametrize("make", [hard_link, copy, pipe])
def test_a_lock_that_is_somebody_elses_file_is_not_written_to(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.write_bytes(b"not yours\n")
    folder.mkdir()
    make(outside, folder / "lock")
    with pytest.raises(UserError, match="lock is not a lock file of this project"):
        RunFolder(folder).hold().__enter__()
    assert outside.read_bytes() == b"not yours\n"
    if make is not pipe:
        assert (folder / "lock").read_bytes() == b"not yours\n"


def test_a_lock_that_a_backup_shares_gives_way_to_one_of_its_own(tmp_path: Path) -> None:
    run, backup = tmp_path / "run", tmp_path / "backup"
    run.mkdir()
    backup.mkdir()
    (run / "lock").write_bytes(b"1\0\0")  # after a power cut
    os.link(run / "lock", backup / "lock")
    with RunFolder(run).hold(), RunFolder(backup).hold():
        assert (run / "lock").read_text() == f"{os.getpid()}\n"
    assert not (run / "lock").samefile(backup / "lock")
