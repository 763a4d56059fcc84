"""Batches over ids that still grow: every id once an epoch, and the same batches whenever the ids came."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.data.batches import Batch, Origin
from lm_core.data.segments import with_segments, within_documents
from lm_core.data.stream import StreamWindows
from lm_core.errors import UserError

START = Origin()


class Growing:
    """Ids 0, 1, ... of which `there` are there; what is waited for comes, and `more` with it."""

    def __init__(self, count: int, there: int, more: int = 0) -> None:
        self.ids, self.there, self.more = np.arange(count, dtype=np.uint16), min(there, count), more

    @property
    def total(self) -> int | None:
        return len(self.ids) if self.there == len(self.ids) else None

    def __len__(self) -> int:
        return self.there

    def wait(self, count: int) -> None:
        if count > self.there:
            self.there = min(count + self.more, len(self.ids))

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        assert not len(starts) or int(starts.max()) + length <= self.there, "read before it was there"
        return self.ids[starts[:, None] + np.arange(length)]


def stream(
    count: int = 100,
    batch_size: int = 4,
    length: int = 7,
    block: int = 5,
    tokens: Growing | None = None,
    origin: Origin = START,
) -> StreamWindows:
    return StreamWindows(Growing(count, count) if tokens is None else tokens, batch_size, length, 1, block, origin)


def same(a: Batch, b: Batch) -> bool:
    return np.array_equal(a.inputs, b.inputs) and np.array_equal(a.targets, b.targets)


def windows_of_epochs(count: int, length: int, epochs: int) -> int:
    return -(-count * epochs // length)


@given(st.integers(9, 300), st.integers(1, 8), st.integers(1, 40), st.integers(1, 3), st.sampled_from([1, 2, 3, 6]))
def test_over_an_epoch_every_id_is_a_target_exactly_once_for_any_ranks(
    count: int, length: int, block: int, epochs: int, world: int
) -> None:
    batches = stream(count, 6, length, block)
    first, end = (windows_of_epochs(count, length, epochs - i) for i in (1, 0))
    steps = range(first // 6 + 1, (end - 1) // 6 + 2)
    parts = [batches.batch(step, rank, world) for step in steps for rank in range(world)]
    inputs, targets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("inputs", "targets"))
    assert np.array_equal(targets, (inputs + 1) % count), "the last id is followed by the first one"
    found = np.bincount(targets[first % 6 :][: end - first].ravel(), minlength=count)
    expected = np.bincount(np.arange(first * length + 1, end * length + 1) % count, minlength=count)
    assert np.array_equal(found, expected), "the windows of an epoch follow each other without gap or overlap"
    assert found.sum() - count < length, "all that an epoch reads twice is the part of a window at its end"


@given(st.integers(9, 300), st.integers(0, 300), st.integers(0, 60), st.integers(1, 40))
def test_batches_are_the_same_whether_the_ids_were_there_or_came_later(
    count: int, there: int, more: int, block: int
) -> None:
    early = stream(count, block=block)
    late = stream(block=block, tokens=Growing(count, there, more))
    assert all(same(early.batch(step), late.batch(step)) for step in (1, 2, 5, 9, 18))
    resumed = stream(block=block, tokens=Growing(count, there, more))
    assert same(early.batch(17), resumed.batch(17)), "also for one that looks at this step first"


@settings(max_examples=40)
@given(st.integers(9, 200), st.lists(st.tuples(st.integers(1, 6), st.sampled_from([2, 4, 6])), min_size=1, max_size=4))
def test_no_window_repeats_or_is_left_out_when_runs_resume_at_other_batch_and_world_sizes(
    count: int, runs: list[tuple[int, int]]
) -> None:
    batches, step, read = stream(count, runs[0][1]), 0, []
    for world, (steps, batch_size) in zip([1, 2] * len(runs), runs, strict=False):
        resumed = stream(count, batch_size).resumed(batches.origin, step, batches.batch_size, other=False)
        batches = resumed
        for i in range(steps):
            read += [batches.batch(step + 1 + i, rank, world).inputs for rank in range(world)]
        step += steps
    rows = np.concatenate(read)
    assert np.array_equal(rows, stream(count, len(rows)).batch(1).inputs)


def test_windows_are_shuffled_within_their_block_and_otherwise_in_each_epoch() -> None:
    batches = stream(210, 10, 7, 10)
    starts = [batches.batch(step).inputs[:, 0] // 7 for step in range(1, 7)]
    assert [sorted(block) for block in starts] == [list(range(i, i + 10)) for i in (0, 10, 20)] * 2
    assert len({tuple(block % 10) for block in starts}) == 6
    assert not same(batches.batch(1), StreamWindows(Growing(210, 210), 10, 7, seed=2, block=10).batch(1))


def test_a_batch_waits_for_its_block_and_no_longer() -> None:
    tokens = Growing(1000, 0)
    batches = stream(tokens=tokens, batch_size=4, block=5)
    batches.batch(1)
    assert len(tokens) == 5 * 7 + 1
    batches.batch(2)
    assert len(tokens) == 10 * 7 + 1


def test_other_ids_are_read_from_their_start_and_too_few_are_refused() -> None:
    other = stream().resumed(Origin(3, 7), 9, 4, other=True)
    assert same(other.batch(10), stream().batch(1))
    with pytest.raises(UserError, match="7 tokens are too few for windows of 7"):
        stream(7)
    assert set(stream(8, block=1).batch(1).inputs.ravel()) == set(range(8)), "one is enough"


def test_segments_count_the_documents_of_each_row() -> None:
    inputs = np.array([[1, 2, 0, 3, 0, 0, 4], [0, 1, 1, 1, 1, 1, 0]], np.int32)
    batch = with_segments(Batch(inputs, inputs), eos_id=0)
    assert batch.segments is not None
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]
    assert batch.segments.dtype == np.int32


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_batches_can_have_the_documents_of_their_rows_and_resume_as_before(world: int) -> None:
    plain, masked = stream(), within_documents(stream(), eos_id=5)
    for rank in range(world):
        batch = masked.batch(3, rank, world)
        assert same(batch, plain.batch(3, rank, world))
        assert batch.segments is not None
        assert (np.diff(batch.segments) == (batch.inputs[:, :-1] == 5)).all()
    moved = masked.resumed(Origin(2, 5), 4, 4, other=False)  # type: ignore[attr-defined]
    assert moved.origin == Origin(2, 5)
    assert same(moved.batch(5), stream(origin=Origin(2, 5)).batch(5))
