"""A batch is a function of (seed, step, rank, world size) and of nothing else."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.errors import UserError
from lm_core.rng import generator

TOKENS = np.arange(500, dtype=np.uint16)
VARIED = LengthRule(shortest=5, longest=60, multiple=8, cap=50)


def stream(**changes: object) -> RandomWindows:
    values = {"tokens": TOKENS, "batch_size": 12, "lengths": VARIED, "seed": 1}
    return RandomWindows(**{**values, **changes})  # type: ignore[arg-type]


def same(one: Batch, other: Batch) -> bool:
    return np.array_equal(one.inputs, other.inputs) and np.array_equal(one.targets, other.targets)


def test_a_batch_does_not_depend_on_what_was_drawn_before() -> None:
    one, other = stream(), stream()
    forward = [one.batch(step) for step in range(1, 20)]
    backward = [other.batch(step) for step in reversed(range(1, 20))]
    assert all(map(same, forward, reversed(backward)))


def test_steps_and_seeds_give_different_batches() -> None:
    batches = [stream(seed=seed).batch(step) for seed in range(4) for step in range(1, 10)]
    assert len({batch.inputs.tobytes() for batch in batches}) == len(batches)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("step", [1, 2, 12345])
def test_the_ranks_of_any_world_size_put_together_are_the_global_batch(world: int, step: int) -> None:
    whole = stream().batch(step)
    parts = [stream().batch(step, rank, world) for rank in range(world)]
    assert len({part.inputs.shape for part in parts}) == 1
    together = Batch(*(np.concatenate(arrays) for arrays in zip(*((p.inputs, p.targets) for p in parts), strict=True)))
    assert same(together, whole)
    assert all(map(same, parts, whole.split(world))), "ranks and micro-batches divide the rows alike"


@given(st.integers(0, 2**63), st.integers(1, 10**9))
def test_targets_are_the_inputs_moved_by_one(seed: int, step: int) -> None:
    batch = stream(seed=seed).batch(step)
    np.testing.assert_array_equal(batch.targets, batch.inputs + 1)
    np.testing.assert_array_equal(np.diff(batch.inputs, axis=1), 1)
    assert batch.inputs.dtype == batch.targets.dtype == np.int32
    assert batch.inputs.flags.c_contiguous
    assert batch.targets.flags.c_contiguous
    assert batch.tokens == batch.inputs.size


@given(st.data())
def test_lengths_are_drawn_rounded_up_then_capped(data: st.DataObject) -> None:
    shortest = data.draw(st.integers(1, 100))
    longest = data.draw(st.integers(shortest, 200))
    multiple = data.draw(st.integers(1, 64))
    cap = data.draw(st.none() | st.integers(1, 200))
    rule = LengthRule(shortest, longest, multiple, cap)
    length = rule.length(generator(data.draw(st.integers(0, 999))))
    assert length <= rule.largest
    assert length >= (shortest if cap is None else min(shortest, cap))
    if cap is None or length < cap:
        assert length % multiple == 0
        assert length < longest + multiple


def test_every_length_of_the_rule_comes_up_and_no_other() -> None:
    lengths = {stream().batch(step).inputs.shape[1] for step in range(1, 300)}
    assert lengths == {8, 16, 24, 32, 40, 48, 50}


def test_windows_reach_both_ends_of_the_data() -> None:
    batches = [stream(tokens=np.arange(20), lengths=LengthRule(8, 8)).batch(step) for step in range(1, 60)]
    assert {int(start) for batch in batches for start in batch.inputs[:, 0]} == set(range(12))
    assert max(int(batch.targets.max()) for batch in batches) == 19


def test_windows_start_anywhere_with_the_same_probability() -> None:
    windows = stream(tokens=np.arange(18), lengths=LengthRule(8, 8), batch_size=20_000).batch(1)
    counts = np.bincount(windows.inputs[:, 0], minlength=10)
    assert np.abs(counts - 2000).max() < 4 * np.sqrt(20_000 * 0.1 * 0.9)


def test_one_window_that_fills_the_data_is_enough_and_less_is_refused() -> None:
    rule = LengthRule(10, 20, multiple=16)
    assert stream(tokens=TOKENS[:33], lengths=rule).batch(1).inputs.min() == 0
    with pytest.raises(UserError, match="32 tokens are too few for windows of 32"):
        stream(tokens=TOKENS[:32], lengths=rule)
    with pytest.raises(UserError, match="too few"):
        frozen_batch(TOKENS[:8], rows=2, length=8, seed=0)


def test_the_evaluation_batch_is_the_same_each_time_and_unlike_the_first_training_batch() -> None:
    rule = LengthRule(16, 16)
    frozen = frozen_batch(TOKENS, rows=12, length=16, seed=1)
    assert same(frozen, frozen_batch(TOKENS, rows=12, length=16, seed=1))
    assert frozen.inputs.shape == (12, 16)
    assert not same(frozen, stream(lengths=rule).batch(1))


def test_ids_above_two_bytes_survive() -> None:
    tokens = np.arange(70_000, 70_100, dtype=np.uint32)
    assert stream(tokens=tokens).batch(1).inputs.min() >= 70_000


def test_the_stream_of_batches_has_not_changed() -> None:
    """A new numpy that drew other numbers would change every run that is resumed."""
    digest = hashlib.sha256()
    for step in (1, 2, 1000):
        digest.update(stream().batch(step).inputs.astype("<i4").tobytes())
    assert digest.hexdigest() == "c2f14049142c6cdc6ea485e3d11668b33d522b3ccca8a4581985c0355526ef51"
