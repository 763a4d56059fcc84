"""Where a run goes, which one is resumed, and what a run can do without."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from lm_core.disk import files
from lm_core.disk.files import flush_folder, make_folder, optional, write_whole
from lm_core.errors import UserError
from lm_core.report import write_report
from lm_core.run.folder import RunFolder, new_run, newest_run, run_folder
from lm_core.terminal import OutputError

METRICS = '{"kind": "train", "step": 1}\n'
"""No numbers, so no pictures."""


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


# A new run


def test_those_that_start_in_the_same_second_get_a_folder_each(tmp_path: Path) -> None:
    root, count = tmp_path / "not" / "there yet", 8
    together = Barrier(count)

    def start(_: int) -> Path:
        together.wait()
        folder = new_run(root, "20261126-070000")
        with folder.hold():
            folder.prepare("")
        return folder.path

    with ThreadPoolExecutor(count) as pool:
        paths = list(pool.map(start, range(count)))
    assert len(set(paths)) == count
    assert all((path / "config.toml").is_file() for path in paths)
    assert {path.name for path in paths} >= {"20261126-070000", "20261126-070000-2"}


def test_a_new_folder_goes_again_where_nothing_was_written(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "app"
    with new_run(root, "now").hold():
        assert (root / "now").is_dir()
    assert not (tmp_path / "runs").exists()


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing" / "at all")
    for root in (tmp_path / "file", tmp_path / "file" / "app"):
        with pytest.raises(UserError, match="cannot write to"):
            new_run(root, "now")


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "report.html", "result.json"])
def test_a_new_run_writes_over_nothing(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / "notes.txt").touch()
    run.check_new()
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"has a {name}, which a run would overwrite"):
        run.check_new()
    (tmp_path / name).unlink()
    run.prepare("")
    with pytest.raises(UserError, match="already holds a run"):
        run.check_new()


# The newest run


def begun(root: Path, name: str, age: int, *, saved: bool) -> RunFolder:
    run = RunFolder(root / name)
    run.prepare("")
    if saved:
        make_folder(run.checkpoints)
        (run.checkpoints / f"{'0' * 40}.metadata").touch()
    os.utime(run.config, (1e9 - age, 1e9 - age))
    return run


def test_the_newest_run_is_the_newest_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^--from: there is no run under .*: name a folder$"):
        newest_run(tmp_path, "--from")
    begun(tmp_path, "empty", 1, saved=False)
    assert newest_run(tmp_path, "").path.name == "empty", "there is nothing else to resume"
    begun(tmp_path, "z-older", 3, saved=True)
    begun(tmp_path, "a-newer", 2, saved=True)
    assert newest_run(tmp_path, "").path.name == "a-newer"
    [line] = capsys.readouterr().err.splitlines()
    assert "empty is newer and has no checkpoint" in line


def test_the_folder_of_a_run_is_the_one_given_the_newest_or_one_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--resume: there is no run under .*: name one with --save_dir$"):
        run_folder("", tmp_path, resume=True)
    begun(tmp_path, "newest", 1, saved=True)
    for resume, name in ((True, ""), (False, ""), (True, "b"), (False, "b")):
        assert run_folder("a", tmp_path, resume=resume, name=name).path == Path("a")
    assert run_folder("", tmp_path, resume=True, name="b").path.name == "newest"
    assert run_folder("", tmp_path, resume=False, name="b").path == tmp_path / "b"
    assert not (tmp_path / "b").exists()
    new = [run_folder("", tmp_path, resume=False).path for _ in range(2)]
    assert len({"newest", *(path.name for path in new)}) == 3


def test_a_run_whose_config_was_taken_away_is_found_by_its_checkpoint(tmp_path: Path) -> None:
    begun(tmp_path, "run", 1, saved=True).config.unlink()
    (tmp_path / "notes").mkdir()
    assert newest_run(tmp_path, "").path.name == "run"


@pytest.mark.parametrize("name", ["x" * 300, "n\0ul"])
def test_a_name_that_no_folder_can_have_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be read: "):
        RunFolder(tmp_path / name).check_new()


def test_a_copy_under_another_name_is_no_checkpoint(tmp_path: Path) -> None:
    run = begun(tmp_path, "run", 1, saved=False)
    make_folder(run.checkpoints)
    (run.checkpoints / "my-best.metadata").touch()
    assert not run.has_checkpoint()


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> list[Path]:
        raise failure(errno.EMFILE)

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(UserError, match="Too many open files; try again"):
        RunFolder(tmp_path).has_checkpoint()


# What a run can do without


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_does_not_take_what_is_optional_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "metrics.jsonl").write_text(METRICS)

    def fail(*_: object) -> None:
        raise failure(number)

    monkeypatch.setattr("lm_core.report.write_whole", fail)
    said: list[str] = []
    with optional("report.html", said.append):
        write_report(tmp_path)
    assert said == [f"report.html not written: {os.strerror(number)}; the run itself is saved"]


@pytest.mark.parametrize("error", [BrokenPipeError(), OutputError(errno.ENOSPC, "full")])
def test_an_output_that_is_gone_is_no_matter_of_the_file(error: OSError) -> None:
    with pytest.raises(type(error)), optional("report.html", pytest.fail):
        raise error


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_flushes_no_folders_is_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    flush = os.fsync

    def no_folders(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}"):  # noqa: PTH112
            raise failure(number)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    monkeypatch.setattr(files, "_without_flush", set())
    for name in ("a", "b"):
        write_whole(tmp_path / name, b"data")
        make_folder(tmp_path / f"folder-{name}")
    assert (tmp_path / "b").read_bytes() == b"data"
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot flush a folder" in line


def test_a_folder_on_a_disk_that_fails_still_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise failure(errno.EIO)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        flush_folder(tmp_path)


# The report, which people share


@pytest.mark.parametrize("name", ["samples.txt", "config.toml"])
@pytest.mark.parametrize("kind", ["link", "chain", "pipe"])
def test_a_report_holds_nothing_that_lies_outside(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "private").write_text("secret")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(METRICS)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / "through").symlink_to("../private")
        (folder / name).symlink_to("through" if kind == "chain" else tmp_path / "private")
    page = write_report(folder).read_text()
    assert "secret" not in page
    assert f"not shown: {name}" in page


def test_a_log_that_is_a_link_out_is_not_reported(tmp_path: Path) -> None:
    (tmp_path / "private").write_text(METRICS)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to(tmp_path / "private")
    with pytest.raises(UserError, match=r"metrics.jsonl is a link that leads out of"):
        write_report(folder)
