"""What makes a checkpoint count for nothing: damage that was read, and neither a passing error nor a newer format."""

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UnreadableError, UserError
from lm_core.run import checkpoint
from lm_core.run.checkpoint import FORMAT, Checkpoints, DamagedError
from lm_core.run.folder import FORMAT as FOLDER_FORMAT
from lm_core.run.folder import RunFolder
from lm_core.run.tensors import safetensors_parts

PASSING = ["ENFILE", "EMFILE", "EACCES", "ENOMEM", "EIO", "ESTALE", "EPERM", "EINTR", "ETIMEDOUT"]


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save({"w": np.full(2, step, np.float32)}, {"m": np.ones(2, np.float32)}, {"step": step})


def failing(patch: pytest.MonkeyPatch, victim: Path, error: Exception) -> None:
    """Let every attempt to open `victim` fail."""
    opened = checkpoint.open_regular

    def open_regular(path: Path) -> Any:
        if path == victim:
            raise error
        return opened(path)

    patch.setattr(checkpoint, "open_regular", open_regular)


# Errors that pass


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
@pytest.mark.parametrize("name", [*PASSING, "memory"])
def test_an_error_that_says_nothing_of_the_content_stops_and_is_named(tmp_path: Path, suffix: str, name: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    victim = save(checkpoints, 2).with_suffix(suffix)
    number = getattr(errno, name, 0)
    error = MemoryError() if name == "memory" else OSError(number, os.strerror(number), str(victim))
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, victim, error)
        for find in (checkpoints.newest, checkpoints.best):
            with pytest.raises(UserError, match=rf"{victim.name} cannot be read: .*: try again"):
                find(pytest.fail)
    found = checkpoints.newest(pytest.fail)
    assert found is not None
    assert found.step == 2


def test_a_process_without_a_descriptor_left_names_the_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 1)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))  # the real thing, through every layer
    try:
        with pytest.raises(UnreadableError, match="Too many open files"):
            checkpoints.read(path)
        with pytest.raises(UnreadableError, match="Too many open files"):
            checkpoints.newest(pytest.fail)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    def stale(_: Path) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "iterdir", stale)
    with pytest.raises(UnreadableError, match=r"[Ss]tale"):
        checkpoints.newest(pytest.fail)


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
def test_more_than_the_memory_is_no_damage_where_the_header_fits(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    newer = checkpoints.save({"w": np.zeros(1000, np.float32)}, {"m": np.ones(2, np.float32)}, {"step": 9})
    memory = newer.with_suffix(suffix).stat().st_size - 1
    monkeypatch.setattr(checkpoint, "machine_memory", lambda: memory)
    with pytest.raises(UnreadableError, match=rf"{newer.stem}{suffix} cannot be read: .*memory"):
        checkpoints.newest(pytest.fail)
    save(checkpoints, 1)
    assert newer in checkpoints.files()


# Pruning


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), MemoryError()])
def test_pruning_keeps_what_it_could_not_read(tmp_path: Path, error: Exception) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = save(checkpoints, 1)
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, first, error)
        second = save(checkpoints, 2)
    assert checkpoints.files() == sorted([first, second])
    assert checkpoints.read(first).step == 1


def test_pruning_keeps_a_newer_one_that_this_run_never_read(tmp_path: Path) -> None:
    newer = save(Checkpoints(tmp_path), 9)
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        saved = save(checkpoints, step)
    assert checkpoints.files() == sorted([newer, saved])
    assert checkpoints.read(newer).step == 9


def test_pruning_removes_a_newer_one_that_was_read_and_found_damaged(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1)
    newer = save(Checkpoints(tmp_path), 9)
    newer.with_suffix(".safetensors").write_bytes(b"")
    checkpoints, warnings = Checkpoints(tmp_path, keep=1), list[str]()
    assert checkpoints.newest(warnings.append)
    assert len(warnings) == 1
    saved = save(checkpoints, 2)
    assert checkpoints.files() == [saved]


# The format's version


def rewritten(path: Path, header_format: int | None, metadata_format: int | None) -> None:
    """The metadata file with other versions in it, and a digest that fits."""
    state = {"m": np.ones(2, np.float32)}
    metadata = {"step": 2, "weights": path.stem} | ({} if metadata_format is None else {"format": metadata_format})
    text = json.dumps(metadata, sort_keys=True)
    header = {"facts": text, "digest": checkpoint._digest(text, state)}
    header |= {} if header_format is None else {"format": str(header_format)}
    path.write_bytes(b"".join(safetensors_parts(state, header)))


def test_a_checkpoint_without_a_version_is_of_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 2)
    assert checkpoints.read(path).metadata["format"] == FORMAT
    rewritten(path, None, None)
    found = checkpoints.newest(pytest.fail)
    assert found is not None
    assert found.step == 2


def test_a_checkpoint_of_a_newer_version_is_refused_by_its_name_and_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = save(checkpoints, 2)
    rewritten(path, FORMAT + 1, FORMAT + 1)
    for refused in (checkpoints.newest, checkpoints.best, lambda _: checkpoints.read(path)):
        with pytest.raises(UserError, match=f"is of format {FORMAT + 1}, made by a newer version"):
            refused(pytest.fail)
    save(checkpoints, 3)
    assert path in checkpoints.files()


@pytest.mark.parametrize(("header", "metadata"), [(FORMAT + 1, FORMAT), (FORMAT, FORMAT + 1), (FORMAT + 2, None)])
def test_versions_that_contradict_each_other_are_damage(tmp_path: Path, header: int, metadata: int | None) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 2)
    rewritten(path, header, metadata)
    with pytest.raises(DamagedError, match="names two formats"):
        checkpoints.read(path)


def test_a_run_folder_has_a_version_and_a_newer_one_is_refused_by_its_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.check_format()  # nothing there is no mistake
    run.prepare("steps = 5\n")
    assert run.config.read_text() == f"# run folder, format {FOLDER_FORMAT}\nsteps = 5\n"
    run.check_format()
    run.config.write_text("steps = 5\n")  # from before there were versions
    run.check_format()
    run.config.write_text("# run folder, format 23\nsteps = 5\n")
    with pytest.raises(UserError, match="is a run folder of format 23, made by a newer version"):
        run.check_format()
