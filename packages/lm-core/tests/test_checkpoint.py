"""Checkpoints are whole or not there: damage is noticed and named, and a crash at any moment costs at most one save."""

import contextlib
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from lm_core.disk.files import write_whole
from lm_core.run.checkpoint import Checkpoint, Checkpoints, DamagedError
from lm_core.run.tensors import contiguous, safetensors_parts

STATE = {"step": np.array(3, np.int64), "m.w": np.ones((2, 2), np.float32), "grad_ema.all": np.array(0.5, np.float32)}


class Crash(BaseException):
    """The process ends here: nothing in the code under test may catch it."""


def save(checkpoints: Checkpoints, step: int, **metadata: Any) -> Path:
    weights = {"w": np.full((2, 2), step, np.float32), "b": np.arange(3, dtype=np.float32)}
    return checkpoints.save(weights, STATE | {"step": np.array(step)}, {"step": step, "text": "é\n\0", **metadata})


def newest(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    """The step of the newest checkpoint, once its content has been compared with what was saved, and the warnings."""
    warnings: list[str] = []
    found = checkpoints.newest(warnings.append)
    if found:
        assert_whole(found)
    return (found.step if found else None), warnings


def assert_whole(found: Checkpoint) -> None:
    state = STATE | {"step": np.array(found.step)}
    weights = {"w": np.full((2, 2), found.step, np.float32), "b": np.arange(3, dtype=np.float32)}
    for read, written in ((found.weights, weights), (found.optimizer_state, state)):
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in read.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in written.items()
        }
    assert found.metadata["text"] == "é\n\0"


def files(path: Path) -> tuple[Path, Path]:
    return path, path.with_suffix(".safetensors")


def test_what_is_read_is_what_was_saved_zero_dimensional_and_int64_arrays_included(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "not there yet")
    path = save(checkpoints, 7, nested={"a": [1, 2.5, None, True]})
    read = checkpoints.read(path)
    assert_whole(read)
    assert read.optimizer_state["step"].dtype == np.int64
    assert read.optimizer_state["grad_ema.all"].shape == ()
    assert read.metadata["nested"] == {"a": [1, 2.5, None, True]}


def test_arrays_that_are_not_contiguous_keep_their_values(tmp_path: Path) -> None:
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = Checkpoints(tmp_path).save({"t": square.T, "s": square[:, ::2]}, {"r": square[::-1]}, {"step": 1})
    read = Checkpoints(tmp_path).read(path)
    np.testing.assert_array_equal(read.weights["t"], square.T)
    np.testing.assert_array_equal(read.weights["s"], square[:, ::2])
    np.testing.assert_array_equal(read.optimizer_state["r"], square[::-1])


def test_a_folder_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert newest(Checkpoints(tmp_path)) == (None, [])
    assert newest(Checkpoints(tmp_path / "missing")) == (None, [])


def test_metadata_that_json_cannot_say_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="JSON"):
        save(checkpoints, 2, loss=float("nan"))
    assert sorted(tmp_path.iterdir()) == before


def test_the_order_is_that_of_the_steps_not_of_the_clock(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    paths = {step: save(checkpoints, step) for step in (9, 10, 100)}
    for age, step in enumerate((100, 9, 10)):
        for file in files(paths[step]):
            os.utime(file, (1e9 + age, 1e9 + age))
    assert newest(checkpoints) == (100, [])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep)
    paths = [save(checkpoints, step) for step in range(1, 6)]
    expected = sorted(itertools.chain.from_iterable(files(path) for path in paths[-keep:]))
    assert sorted(tmp_path.iterdir()) == expected


def test_a_save_removes_what_killed_saves_left_behind(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / f"{'0123' * 10}.safetensors.new").write_bytes(b"torn")
    (tmp_path / f"{'0123' * 10}.metadata.new").write_bytes(b"")
    (tmp_path / f"{'4567' * 10}.safetensors").write_bytes(b"weights whose metadata was never written")
    path = save(checkpoints, 1)
    assert sorted(tmp_path.iterdir()) == sorted(files(path))


def test_saving_the_same_weights_again_moves_the_checkpoint_on(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    weights = {"w": np.zeros(2, np.float32)}
    for step in (1, 2):
        checkpoints.save(weights, {}, {"step": step})
    found = checkpoints.newest(pytest.fail)
    assert found is not None
    assert found.step == 2
    assert len(list(tmp_path.iterdir())) == 2


# The best


def save_scored(checkpoints: Checkpoints, losses: list[float | None]) -> None:
    for step, loss in enumerate(losses, 1):
        weights = {"w": np.full(2, step, np.float32)}
        checkpoints.save(weights, {}, {"step": step, "val_loss": loss}, keep_best=True)


def steps_kept(checkpoints: Checkpoints) -> list[int]:
    return sorted(checkpoints.read(path).step for path in checkpoints.folder.glob("*.metadata"))


@pytest.mark.parametrize(
    ("losses", "kept", "best"),
    [
        ([3.0, 1.0, 2.0, None, 2.5], [2, 4, 5], 2),
        ([3.0, 2.0, 1.0, None], [3, 4], 3),
        ([3.0, 2.0, None, 1.0], [3, 4], 4),
        ([2.0, 2.0, 3.0, 3.0], [1, 3, 4], 1),
        ([None, None, None], [2, 3], 3),
    ],
)
def test_the_newest_and_the_best_are_kept_and_the_best_is_found(
    tmp_path: Path, losses: list[float | None], kept: list[int], best: int
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save_scored(checkpoints, losses)
    assert steps_kept(checkpoints) == kept
    found = checkpoints.best(pytest.fail)
    assert found is not None
    assert found.step == best
    assert len(list(tmp_path.iterdir())) == 2 * len(kept)


def test_a_damaged_best_is_named_and_the_next_best_is_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    save_scored(checkpoints, [2.0, 1.0, 3.0])
    best = checkpoints.best(pytest.fail)
    assert best is not None
    best.path.with_suffix(".safetensors").write_bytes(b"")
    warnings: list[str] = []
    found = checkpoints.best(warnings.append)
    assert found is not None
    assert (found.step, len(warnings)) == (1, 1)
    assert best.path.stem in warnings[0]


def test_an_older_checkpoint_without_a_loss_is_read_and_counts_as_newest_only(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best(pytest.fail) is None
    save(checkpoints, 1)
    save(checkpoints, 2)
    found = checkpoints.best(pytest.fail)
    assert found is not None
    assert found.step == 2


# The layout

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
arrays = st.sampled_from(["<f4", "<f8", "<i8", "<i4", "|u1", "|b1", "<f2", "<u2", ">f4"]).flatmap(
    lambda dtype: shapes.map(lambda shape: np.ones(shape, dtype))
)


@given(st.dictionaries(st.text(max_size=5).filter(lambda name: name != "__metadata__"), arrays, max_size=5))
def test_a_file_is_laid_out_as_the_safetensors_package_reads_it(named: dict[str, Any]) -> None:
    data = b"".join(safetensors_parts(contiguous(named), {"facts": "é"}))
    read = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert all(header[name]["data_offsets"][0] % array.itemsize == 0 for name, array in named.items()), "aligned"
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in read.items()} == {
        n: (a.dtype.newbyteorder("<"), a.shape, a.astype(a.dtype.newbyteorder("<")).tobytes()) for n, a in named.items()
    }


def test_no_array_is_copied_on_its_way_to_the_file() -> None:
    array = np.zeros((3, 4), np.float32)
    _, part = safetensors_parts(contiguous({"a": array}))
    array[2, 3] = 1
    assert bytes(part) == array.tobytes()


# Damage


def damage(path: Path, data: bytes | None) -> None:
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def assert_noticed_or_harmless(checkpoints: Checkpoints, damaged: Path) -> None:
    step, warnings = newest(checkpoints)
    if warnings:
        assert step == 1, "the good checkpoint before the damaged one is taken"
        assert damaged.stem in " ".join(warnings)
        assert len(warnings) == 1
        assert "\n" not in warnings[0]
    else:
        assert step == 2


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
@pytest.mark.parametrize(
    "flip",
    [0x02, 0x20, *(pytest.param(flip, marks=pytest.mark.slow) for flip in (0x01, 0x04, 0x08, 0x10, 0x40, 0x80))],
)
def test_a_flipped_byte_anywhere_is_noticed_or_harmless(tmp_path: Path, suffix: str, flip: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    path = save(checkpoints, 2).with_suffix(suffix)
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :])
        assert_noticed_or_harmless(checkpoints, path)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F32"', b'"I32"'), (b'"I64"', b'"F64"'), (b"[2,2]", b"[4,1]"), (b"m.w", b"v.w")]
)
def test_an_array_whose_type_shape_or_name_alone_was_changed_is_noticed(tmp_path: Path, old: bytes, new: bytes) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    path = save(checkpoints, 2)
    good = path.read_bytes()
    assert old in good
    path.write_bytes(good.replace(old, new))
    step, warnings = newest(checkpoints)
    assert step == 1
    assert path.name in warnings[0]


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
def test_a_file_cut_short_or_grown_is_noticed(tmp_path: Path, suffix: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    path = save(checkpoints, 2).with_suffix(suffix)
    good = path.read_bytes()
    for data in (*(good[:length] for length in range(len(good))), good + b"\0", good + good):
        path.write_bytes(data)
        assert newest(checkpoints)[0] == 1
        assert_noticed_or_harmless(checkpoints, path)


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"\x80\x04N.", b'{"step": 2}'], ids=["empty", "zeros", "pickle", "json"]
)
def test_a_file_of_something_else_is_noticed(tmp_path: Path, suffix: str, data: bytes) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    path = save(checkpoints, 2).with_suffix(suffix)
    path.write_bytes(data)
    step, warnings = newest(checkpoints)
    assert step == 1
    assert path.stem in warnings[0]


def test_missing_weights_are_noticed_and_missing_metadata_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    metadata, weights = files(save(checkpoints, 2))
    weights.unlink()
    step, warnings = newest(checkpoints)
    assert step == 1
    assert weights.name in warnings[0]
    assert "is missing" in warnings[0]
    metadata.unlink()
    assert newest(checkpoints) == (1, [])


@pytest.mark.parametrize("suffixes", [[".metadata"], [".safetensors"], [".metadata", ".safetensors"]])
def test_swapped_files_are_noticed_even_as_whole_pairs(tmp_path: Path, suffixes: list[str]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    paths = [save(checkpoints, step) for step in (2, 3)]
    for suffix in suffixes:
        one, other = (path.with_suffix(suffix) for path in paths)
        one_data, other_data = one.read_bytes(), other.read_bytes()
        one.write_bytes(other_data)
        other.write_bytes(one_data)
    step, warnings = newest(checkpoints)
    assert step == 1
    assert all(any(path.stem in warning for warning in warnings) for path in paths)


def test_when_everything_is_damaged_there_is_no_newest_and_every_file_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    paths = [save(checkpoints, step) for step in (1, 2)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    step, warnings = newest(checkpoints)
    assert step is None
    assert all(any(path.name in warning for warning in warnings) for path in paths)


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_of_later_steps_never_push_out_the_one_just_saved(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep)
    for step in (80, 90):
        damaged = Checkpoints(tmp_path, keep=9)
        files(save(damaged, step))[1].write_bytes(b"")
    save(checkpoints, 50)
    assert newest(checkpoints)[0] == 50


# Crashes


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


# What lies in the folder


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def vast(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
@pytest.mark.parametrize("make", [pipe, endless, vast, Path.mkdir])
def test_what_is_no_file_or_fills_the_memory_is_named_and_passed_over(
    tmp_path: Path, suffix: str, make: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    newer = save(checkpoints, 2).with_suffix(suffix)
    newer.unlink()
    make(newer)
    step, [warning] = newest(checkpoints)
    assert step == 1
    assert newer.name in warning


def test_a_save_does_not_write_through_a_link_that_lies_in_its_way(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = save(checkpoints, 1)
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    for suffix in (".metadata", ".safetensors"):
        path.with_suffix(suffix).unlink()
        path.with_suffix(suffix + ".new").symlink_to(outside)
        path.with_suffix(suffix).symlink_to(outside)
    assert save(checkpoints, 1) == path
    assert newest(checkpoints) == (1, [])
    assert outside.read_text() == "untouched"
    assert not path.is_symlink()


def test_a_folder_that_has_gone_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "volume" / "run"
    run.mkdir(parents=True)
    checkpoints = Checkpoints(run / "checkpoints")
    save(checkpoints, 1)
    shutil.rmtree(tmp_path / "volume")
    with pytest.raises(FileNotFoundError, match="volume/run"):
        save(checkpoints, 2)
    assert not (tmp_path / "volume").exists()
