"""Checkpoints: what is read is what was saved, in which order, which of them stay, and how a file is laid out."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from lm_core.run.checkpoint import Checkpoints
from lm_core.run.tensors import contiguous, safetensors_parts

from .small_checkpoints import assert_whole, files, newest, save


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
