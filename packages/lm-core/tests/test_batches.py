"""A batch is a function of (seed, step, rank, world size) and of nothing else."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.data.batches import (
    Batch,
    LengthRule,
    Origin,
    RandomWindows,
    SequentialWindows,
    ShuffledWindows,
    frozen_batch,
    mean_one,
)
from lm_core.data.permutation import Permutation
from lm_core.data.token_ids import TokenIds
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


def test_micro_batches_take_their_rows_of_weights_and_segments() -> None:
    ids = np.arange(12, dtype=np.int32).reshape(4, 3)
    parts = Batch(ids, ids + 1, ids.astype(np.float32) / 7, ids // 5).split(2)
    for part, rows in zip(parts, (slice(0, 2), slice(2, 4)), strict=True):
        assert part.weights is not None
        np.testing.assert_array_equal(part.weights, ids[rows].astype(np.float32) / 7)
        np.testing.assert_array_equal(part.segments, ids[rows] // 5)
    assert {(part.weights, part.segments) for part in Batch(ids, ids).split(4)} == {(None, None)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"targets": np.zeros((2, 4), np.int32)}, r"targets are int32 \(2, 4\); integer"),
        ({"weights": np.zeros((2, 3))}, r"weights are float64 \(2, 3\); float32"),
        ({"weights": np.zeros(3, np.float32)}, r"weights are float32 \(3,\)"),
        ({"segments": np.zeros((2, 3), np.float32)}, "segments are float32"),
        ({"inputs": np.zeros(3, np.int32), "targets": np.zeros(3, np.int32)}, "inputs are"),
    ],
)
def test_arrays_that_do_not_fit_together_are_no_batch(change: dict[str, np.ndarray], named: str) -> None:
    ids = np.zeros((2, 3), np.int32)
    with pytest.raises(ValueError, match=named):
        Batch(**{"inputs": ids, "targets": ids, **change})


def test_a_mask_s_weights_are_1_on_average_and_one_of_nothing_but_zeros_is_refused() -> None:
    mask = np.array([[True, False, False], [True, True, False]])
    np.testing.assert_array_equal(mean_one(mask), [[2, 0, 0], [2, 2, 0]])
    graded = mean_one(np.array([[1.0, 0.25], [0.5, 0.25]]))
    np.testing.assert_array_equal(graded, [[2, 0.5], [1, 0.5]])
    assert graded.dtype == np.float32
    np.testing.assert_array_equal(mean_one(np.ones((3, 7))), 1)
    with pytest.raises(UserError, match="all masked"):
        mean_one(0 * mask)


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


# Without replacement


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 99))
def test_a_permutation_visits_everything_once(n: int, seed: int, epoch: int) -> None:
    order = Permutation(n, seed, epoch)(np.arange(n))
    assert np.array_equal(np.sort(order), np.arange(n))


def test_a_permutation_of_billions_needs_no_table() -> None:
    n = 3_000_000_017
    positions = np.concatenate([np.arange(1000), np.arange(n - 1000, n)])
    found = Permutation(n, 1)(positions)
    assert len(np.unique(found)) == 2000
    assert found.min() >= 0
    assert found.max() < n
    assert abs(found.mean() / n - 0.5) < 0.03, "they come from everywhere"


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_every_thing_comes_to_every_place_with_about_the_same_probability(n: int) -> None:
    orders = np.array([Permutation(n, seed)(np.arange(n)) for seed in range(1000)])
    for place in range(n):
        counts = np.bincount(orders[:, place], minlength=n)
        assert np.abs(counts - 1000 / n).max() < 5 * np.sqrt(1000 / n)


def shuffled(**changes: object) -> ShuffledWindows:
    values = {"tokens": TOKENS, "batch_size": 12, "length": 7, "seed": 1}
    return ShuffledWindows(**{**values, **changes})  # type: ignore[arg-type]


@given(st.integers(8, 400), st.integers(1, 7), st.sampled_from([1, 3, 12, 50]), st.integers(0, 5))
def test_an_epoch_visits_windows_that_do_not_overlap_each_once(
    count: int, length: int, batch_size: int, epoch: int
) -> None:
    stream = shuffled(tokens=TOKENS[:count], batch_size=batch_size, length=length)
    n = stream.per_epoch
    first, last = epoch * n, epoch * n + n - 1
    batches = [stream.batch(step) for step in range(first // batch_size + 1, last // batch_size + 2)]
    starts = np.concatenate([batch.inputs[:, 0] for batch in batches])
    starts = np.sort(starts[first % batch_size :][:n])
    assert np.all(np.diff(starts) == length)
    assert starts[-1] + length < count
    assert count - n * length <= 2 * length, "and leaves out less than two of them"


def test_epochs_differ_in_order_and_in_where_they_cut() -> None:
    stream = shuffled(batch_size=70, length=7)
    assert stream.per_epoch == 70
    epochs = [stream.batch(step).inputs[:, 0] for step in (1, 2, 3)]
    assert len({tuple(np.argsort(epoch)) for epoch in epochs}) == 3
    assert len({int(epoch.min()) for epoch in epochs}) > 1
    reached = {int(shuffled(batch_size=70).batch(step).inputs.min()) for step in range(1, 200)}
    assert reached == set(range(10)), "every offset comes up, so no token is left out for good"


@pytest.mark.parametrize("world", [1, 2, 3, 12])
@pytest.mark.parametrize("step", [1, 6, 12345])
def test_ranks_share_a_shuffled_batch_and_nothing_depends_on_what_was_drawn_before(world: int, step: int) -> None:
    whole = shuffled().batch(step)
    assert same(whole, shuffled().batch(step))
    assert all(map(same, (shuffled().batch(step, rank, world) for rank in range(world)), whole.split(world)))
    np.testing.assert_array_equal(whole.targets, whole.inputs + 1)
    assert not same(whole, shuffled(seed=2).batch(step))


def test_shuffled_windows_need_one_window_and_refuse_less() -> None:
    assert shuffled(tokens=TOKENS[:8]).batch(3).inputs.tolist() == [list(range(7))] * 12
    with pytest.raises(UserError, match="7 tokens are too few for windows of 7"):
        shuffled(tokens=TOKENS[:7])


def test_tokens_on_disk_are_read_only_where_a_batch_is(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    with path.open("wb") as file:
        file.truncate(8_000_000_000)  # sparse: four billion zeros that take no room on the disk
    tokens = TokenIds(path, np.dtype("<u2"), 0, 4_000_000_000, 1)
    assert shuffled(tokens=tokens, length=1024).batch(123_456).inputs.sum() == 0
    in_order = SequentialWindows(tokens, 8, 1024)
    assert len(in_order) == 488_283
    assert in_order[-1].inputs.shape == (1, 1023)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5))
def test_no_window_of_an_epoch_repeats_or_is_left_out_when_a_resume_changes_the_batch_size(
    runs: list[tuple[int, int]],
) -> None:
    """Each run is resumed by the next one, with a batch size of its own; together they read on through the epochs."""
    origin, step, batch_size, read = Origin(), 0, runs[0][1], []
    for steps, new_size in runs:
        origin, batch_size = origin.moved(step, batch_size, new_size), new_size
        stream = shuffled(tokens=TOKENS[:100], batch_size=batch_size, origin=origin)
        read += [stream.batch(step + 1 + i).inputs for i in range(steps)]
        step += steps
    rows = np.concatenate(read)
    in_order = shuffled(tokens=TOKENS[:100], batch_size=1)
    assert np.array_equal(rows, np.concatenate([in_order.batch(i + 1).inputs for i in range(len(rows))]))
    assert origin.seen(step, batch_size) == len(rows)


def test_the_origin_stays_while_the_batch_size_does_and_other_tokens_begin_an_epoch() -> None:
    assert Origin(3, 7).moved(9, 4, 4) == Origin(3, 7)
    assert Origin().moved(9, 4, 5) == Origin(9, 36)
    assert Origin().moved(9, 4, 4, per_epoch=10) == Origin(9, 40)
    assert Origin(5, 20).moved(9, 5, 4, per_epoch=10) == Origin(9, 40), "at its end, the next one begins"


# In order


@given(st.integers(2, 300), st.integers(1, 9), st.integers(1, 9), st.none() | st.integers(1, 400))
def test_every_token_but_the_first_is_a_target_exactly_once_and_in_order(
    count: int, batch_size: int, length: int, limit: int | None
) -> None:
    batches = SequentialWindows(TOKENS[:count], batch_size, length, limit)
    targets = [batch.targets.ravel() for batch in batches]
    scored = count - 1 if limit is None else min(limit, count - 1)
    np.testing.assert_array_equal(np.concatenate(targets), np.arange(1, scored + 1))
    np.testing.assert_array_equal(np.concatenate([batch.inputs.ravel() for batch in batches]), np.arange(scored))
    assert len(targets) == len(batches)
    assert len({batch.inputs.shape for batch in batches}) <= 3
    assert same(batches[-1], batches[len(batches) - 1])
    assert len(batches[1:]) == len(batches) - 1


def test_an_index_past_the_end_and_too_few_tokens_are_refused() -> None:
    with pytest.raises(IndexError):
        SequentialWindows(TOKENS, 4, 5)[999]
    with pytest.raises(UserError, match="too few to evaluate"):
        SequentialWindows(TOKENS[:1], 4, 5)
    with pytest.raises(UserError, match="limit above 0"):
        SequentialWindows(TOKENS, 4, 5, limit_tokens=0)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_the_shape_of_a_batch_is_known_without_it(step: int) -> None:
    tokens = np.arange(500)
    kinds = [
        RandomWindows(tokens, 3, LengthRule(4, 40, 8, 32), 5),
        ShuffledWindows(tokens, 4, 16, 5),
    ]
    for batches in kinds:
        assert batches.shape(step) == batches.batch(step).inputs.shape
        assert replace(batches, batch_size=10**9).shape(step)[0] == 10**9
