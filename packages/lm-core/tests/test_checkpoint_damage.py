"""Damage to a checkpoint's files is noticed and named, and the checkpoint before is taken."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.run.checkpoint import Checkpoints

from .small_checkpoints import files, newest, save

# Damage


def assert_noticed_or_harmless(checkpoints: Checkpoints, damaged: Path) -> int | None:
    """The step that is taken."""
    step, warnings = newest(checkpoints)
    if warnings:
        assert step == 1, "the good checkpoint before the damaged one is taken"
        assert damaged.stem in " ".join(warnings)
        assert len(warnings) == 1
        assert "\n" not in warnings[0]
    else:
        assert step == 2
    return step


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


@pytest.mark.parametrize("suffix", [".metadata", ".safetensors"])
def test_a_file_of_another_checkpoint_is_noticed_whatever_their_names(tmp_path: Path, suffix: str) -> None:
    for other in range(8):  # so that either name comes first
        checkpoints = Checkpoints(tmp_path / str(other))
        before, path = save(checkpoints, 1), save(checkpoints, 2 + other)
        path.with_suffix(suffix).write_bytes(before.with_suffix(suffix).read_bytes())
        step, warnings = newest(checkpoints)
        assert step == 1
        assert path.stem in warnings[0]


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
        assert assert_noticed_or_harmless(checkpoints, path) == 1


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


@pytest.mark.parametrize("odd", [{"history": 5}, {"config": [1]}, {"tokenizer": "a" * 1000}, {"state": 0}])
def test_metadata_of_another_type_is_damage_whatever_its_hash_says(tmp_path: Path, odd: dict[str, Any]) -> None:
    checkpoints, arrays = Checkpoints(tmp_path), {"w": np.ones(2, np.float32)}
    checkpoints.save(arrays, {}, {"step": 1, "history": [], "config": None})
    damaged = checkpoints.save({"w": np.zeros(2, np.float32)}, {}, {"step": 2, **odd})
    warnings: list[str] = []
    found = checkpoints.newest(warnings.append)
    assert found
    assert found.step == 1
    [warning] = warnings
    assert damaged.name in warning
    assert f"its {next(iter(odd))} is " in warning
    assert len(warning) < 300


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
