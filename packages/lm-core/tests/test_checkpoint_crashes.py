"""A crash or a failing disk at any moment of a save costs at most that save."""

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from lm_core.disk.files import write_whole
from lm_core.run.checkpoint import Checkpoints, DamagedError

from .small_checkpoints import Crash, newest, save


class Disk:
    """Counts what is asked of the disk and lets the n-th request fail; a failing write leaves half of its bytes."""

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int, error: BaseException):
        self.fail_at, self.error = fail_at, error
        self.calls: list[str] = []
        opened = Path.open

        def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "x" not in mode:
                return opened(path, mode, *args, **kwargs)
            self.ask("open", path)
            return Torn(opened(path, mode, *args, **kwargs), path, self)

        patch.setattr(Path, "open", open_)
        self._watch(patch, Path, "replace")
        self._watch(patch, Path, "unlink")
        self._watch(patch, os, "fsync")

    def _watch(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.ask(name, args[0])
            return original(*args, **kwargs)

        patch.setattr(owner, name, watched)

    def ask(self, name: str, about: object) -> None:
        self.calls.append(f"{name} {about.suffixes[0]}" if isinstance(about, Path) else name)
        if len(self.calls) == self.fail_at:
            raise self.error


class Torn:
    """A file whose write may stop half-way."""

    def __init__(self, file: Any, path: Path, disk: Disk):
        self.file, self.path, self.disk = file, path, disk

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        data = b"".join(parts)
        try:
            self.disk.ask("write", self.path)
        except BaseException:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise
        self.file.write(data)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize(
    "error", [Crash(), OSError(errno.ENOSPC, "No space left on device")], ids=["crash", "full disk"]
)
def test_whatever_request_to_the_disk_fails_the_old_checkpoint_or_the_new_one_is_there(
    tmp_path: Path, keep: int, error: BaseException
) -> None:
    for fail_at in itertools.count(1):
        checkpoints = Checkpoints(tmp_path / str(fail_at), keep)
        save(checkpoints, 1)
        save(checkpoints, 2)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, fail_at, error)
            with contextlib.suppress(type(error)):
                save(checkpoints, 3)
        if len(disk.calls) < fail_at:
            break
        step, warnings = newest(checkpoints)
        assert step in (2, 3), disk.calls
        assert warnings == [], disk.calls
        save(checkpoints, 4)
        assert newest(checkpoints) == (4, [])
        assert len(list(checkpoints.folder.iterdir())) == 2 * keep, "nothing torn or unused stays for good"
    assert fail_at > 10, disk.calls


def test_bytes_are_on_the_disk_before_they_get_their_name_and_the_metadata_comes_last(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, 0, Crash())
        save(Checkpoints(tmp_path), 1)
    one_file = ["open {0}", "write {0}", "fsync", "replace {0}", "fsync"]
    assert disk.calls == [call.format(suffix) for suffix in (".safetensors", ".metadata") for call in one_file]


def test_a_full_disk_gets_back_what_a_failed_write_took(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, 2, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
def test_a_save_that_reads_back_wrong_removes_nothing_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 1)

    def flip_the_last_bit(path: Path, *parts: bytes | memoryview) -> None:
        data = b"".join(parts)
        write_whole(path, data[:-1] + bytes([data[-1] ^ 1]) if path.suffix == suffix else data)

    with monkeypatch.context() as patch:
        patch.setattr("lm_core.run.checkpoint.write_whole", flip_the_last_bit)
        with pytest.raises(DamagedError, match=f"{suffix} does not read back as it was written"):
            save(checkpoints, 2)
    assert len(list(tmp_path.glob("*.metadata"))) == len(list(tmp_path.glob("*.safetensors"))) == 2
    step, warnings = newest(checkpoints)
    assert (step, len(warnings)) == (1, 1)


def test_a_folder_that_has_gone_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "volume" / "run"
    run.mkdir(parents=True)
    checkpoints = Checkpoints(run / "checkpoints")
    save(checkpoints, 1)
    shutil.rmtree(tmp_path / "volume")
    with pytest.raises(FileNotFoundError, match="volume/run"):
        save(checkpoints, 2)
    assert not (tmp_path / "volume").exists()
