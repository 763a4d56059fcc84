"""Runs of several ranks: who writes, what they agree on, and what stops them all."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lm_core.backend import Backend
from lm_core.config import LoopConfig, StepConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, SequentialWindows, ShuffledWindows, rank_batch
from lm_core.errors import LostRankError, UserError
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.evaluation import evaluate
from lm_core.run.folder import RunFolder
from lm_core.run.log import TIMING_FIELDS, read_records
from lm_core.run.plan import Plan
from lm_core.run.ranks import launched_by, one_folder
from lm_core.world import ALONE, World

from .fake_worlds import in_ranks
from .small_runs import POLICY, TOKENS, AppConfig, Letters, Numpy, Still, plan_of

ROWS = RandomWindows(TOKENS, 8, LengthRule(4, 4), 0)


@dataclass
class Asked:
    """Interrupts without signals, which a thread cannot handle."""

    requested: bool = False

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""


class Acting(Numpy):
    """A backend whose trainer does something at some step of some rank."""

    def __init__(self, act: Callable[[int], object] = lambda step: None):
        self.act = act

    def build(self, *given: Any) -> Still:
        trainer = super().build(*given)
        step = trainer.step

        def acting(batch: Batch, lr: float) -> dict[str, Any]:
            assert batch.inputs.shape[1] == 4
            values = step(batch, lr)
            self.act(trainer.taken)
            return values

        trainer.step = acting  # type: ignore[method-assign]
        return trainer


def go(
    folder: RunFolder,
    size: int,
    plan: Plan | None = None,
    act: Callable[[World, Asked, int], object] | None = None,
    words: dict[str, str] | None = None,
) -> list[Any]:
    """What each rank's session returns or raises; with `act` before every end of a step.

    With the `words` of a launcher the command does not ask to resume.
    """
    made = plan or plan_of(batches=ROWS, evaluation=SequentialWindows(TOKENS, 2, 4))

    def work(world: World) -> Any:
        asked = Asked()
        backend = Acting(lambda step: act(world, asked, step) if act else None)
        resume = words is None and world.of_first(folder.holds_run)
        with session.opened(folder, AppConfig, POLICY, resume=resume, world=world) as known:
            plan = replace(made, checkpoint=known.checkpoint) if known else made
            return session.run(
                plan, folder, backend=cast("Backend", backend), interrupts=cast("Any", asked), world=world
            )

    return in_ranks(size, work, words)


def outcome(folder: RunFolder) -> Any:
    """What a run leaves, but for what a clock says."""
    records = [
        {key: value for key, value in record.items() if key not in TIMING_FIELDS}
        for record in read_records(folder.metrics)
    ]
    result = json.loads(folder.result.read_text())
    names = sorted(path.name for path in folder.checkpoints.glob("*.safetensors"))
    return records, {**result, "metrics.seconds": 0}, names, folder.samples.read_text()


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_leave_one_run_folder_which_is_that_of_one_process(tmp_path: Path, size: int) -> None:
    alone, together = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "together")
    go(alone, 1)
    states = go(together, size)
    assert {state.step for state in states} == {4}
    assert outcome(together) == outcome(alone)


@pytest.mark.parametrize("asked_rank", [0, 1, 2])
def test_a_stop_that_one_rank_is_asked_for_is_after_the_same_step_on_all(tmp_path: Path, asked_rank: int) -> None:
    folder = RunFolder(tmp_path / "run")

    def ask(world: World, asked: Asked, step: int) -> None:
        asked.requested |= step == 3 and world.rank == asked_rank

    states = go(folder, 3, plan_of(batches=replace(ROWS, batch_size=6)), ask)
    assert [state.step for state in states] == [3, 3, 3]
    assert Checkpoints(folder.checkpoints).newest_metadata()["step"] == 3
    assert [state.step for state in go(folder, 2)] == [4, 4], "another number of ranks resumes"


@pytest.mark.parametrize("failing", [0, 1])
def test_what_goes_wrong_on_one_rank_ends_all_and_what_was_saved_stays(tmp_path: Path, failing: int) -> None:
    folder = RunFolder(tmp_path / "run")

    def fail(world: World, asked: Asked, step: int) -> None:
        if step == 3 and world.rank == failing:
            raise UserError("the text was overwritten meanwhile")

    ends = go(folder, 2, act=fail)
    assert isinstance(ends[failing], UserError)
    assert isinstance(ends[1 - failing], LostRankError)
    assert Checkpoints(folder.checkpoints).newest_metadata()["step"] == 2
    assert [state.step for state in go(folder, 2)] == [4, 4], "the lock is free, and the run resumes"


def test_ranks_that_their_launcher_starts_again_resume_the_run_that_they_had_started(tmp_path: Path) -> None:
    folder, alone, words = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "alone"), dict[str, str]()

    def die(at: int) -> Callable[[World, Asked, int], object]:
        def act(world: World, asked: Asked, step: int) -> None:
            if step == at and world.rank == 1:
                raise SystemExit

        return act

    for taken in (1, 3, 1):  # before the first save, after it, and once more
        ends = go(folder, 2, act=die(taken), words=words)
        assert [type(end) for end in ends] == [LostRankError, SystemExit]
    assert [state.step for state in go(folder, 2, words=words)] == [4, 4]
    go(alone, 1)
    assert outcome(folder)[0] == outcome(alone)[0]


def test_a_run_that_another_job_has_left_is_not_resumed_however_often_ranks_are_started(tmp_path: Path) -> None:
    folder, words = RunFolder(tmp_path / "run"), dict[str, str]()
    go(folder, 1)
    for _ in range(2):
        ends = go(folder, 2, words=words)
        assert all("already holds a run: resume it with --resume" in str(end) for end in ends)


def test_a_folder_that_ranks_have_made_up_is_theirs_after_a_restart(tmp_path: Path) -> None:
    words, numbers = dict[str, str](), iter(range(9))

    def folder(key: str) -> list[str]:
        make = lambda: RunFolder(tmp_path / str(next(numbers)))  # noqa: E731
        return [found.path.name for found in in_ranks(2, lambda world: one_folder(make, world, key), words)]

    assert folder("a") == folder("a") == ["0", "0"]
    assert folder("b") == ["1", "1"]
    words.clear()
    assert folder("a") == ["2", "2"]


def test_a_disk_that_refuses_the_last_save_ends_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", refuse)
    monkeypatch.setattr("lm_core.run.loop.time.sleep", lambda _: None)
    ends = go(RunFolder(tmp_path / "run"), 2)
    assert all(isinstance(end, UserError) and "could not be saved: No space left" in str(end) for end in ends)


def test_weights_that_are_not_finite_which_the_first_rank_finds_end_all(tmp_path: Path) -> None:
    class Broken(Numpy):
        def build(self, *given: Any) -> Still:
            trainer = super().build(*given)
            trainer.arrays = {name: np.full_like(array, math.nan) for name, array in trainer.arrays.items()}
            return trainer

    folder = RunFolder(tmp_path / "run")

    def work(world: World) -> Any:
        with session.opened(folder, AppConfig, POLICY, resume=False, world=world):
            plan = plan_of(batches=ROWS)
            session.run(plan, folder, backend=cast("Backend", Broken()), interrupts=cast("Any", Asked()), world=world)

    first, second = in_ranks(2, work)
    assert "is not finite" in str(first)
    assert isinstance(second, LostRankError)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("config", {"loop": LoopConfig(max_steps=9)}),
        ("data", {"batches": replace(ROWS, tokens=TOKENS[::-1].copy())}),
        (
            "data",
            {"tokenizer": cast("Letters", SimpleNamespace(name="x", fingerprint="y", is_saved_in=lambda _: None))},
        ),
    ],
)
def test_ranks_that_would_train_another_run_are_refused_before_anything_is_written(
    tmp_path: Path, what: str, other: dict[str, Any]
) -> None:
    folder = RunFolder(tmp_path / "run")

    def work(world: World) -> Any:
        plan = plan_of(batches=ROWS)
        plan = replace(plan, **other) if world.rank == 1 else plan
        with session.opened(folder, AppConfig, POLICY, resume=False, world=world):
            session.run(plan, folder, backend=cast("Backend", Numpy()), interrupts=cast("Any", Asked()), world=world)

    for end in in_ranks(4, work):
        assert isinstance(end, UserError)
        assert str(end).startswith(f"rank 1 of 4 and rank 0 differ in {what}: start all of them from one version")
    assert not folder.holds_run()


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_refused_with_those_that_do(tmp_path: Path) -> None:
    plan = plan_of(batches=replace(ROWS, batch_size=12), step=StepConfig(grad_accum_steps=2))
    for end in go(RunFolder(tmp_path / "run"), 4, plan):
        assert str(end) == (
            "4 ranks do not divide a batch of 12 rows in 2 micro-batches: start 1, 2, 3, 6 of them, or change the"
            " batch size"
        )


def test_a_folder_that_another_process_holds_is_refused_on_all_ranks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.hold():
        ends = go(folder, 2)
    assert all(isinstance(end, UserError) and "is in use by process" in str(end) for end in ends)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_micro_batches_of_all_ranks_are_those_of_one_process(world: int, parts: int) -> None:
    batches = ShuffledWindows(np.arange(500), 24, 7, seed=1)
    whole = batches.batch(5).split(parts)
    shares = [rank_batch(batches, 5, rank, world, parts).split(parts) for rank in range(world)]
    for i, micro in enumerate(whole):
        assert np.concatenate([share[i].inputs for share in shares]).tolist() == micro.inputs.tolist()


class Mean:
    """Evaluates a batch as the mean of its ids, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def evaluate(self, batch: Batch) -> float:
        self.calls += 1
        return float(batch.inputs.mean()) / 3


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_ranks_share_the_validation_batches_and_get_the_loss_of_one_to_the_last_bit(size: int) -> None:
    batches = SequentialWindows(np.random.default_rng(0).integers(0, 99, 43), 2, 4)
    assert len(batches) == 6
    expected = evaluate(cast("Any", Mean()), batches, lambda batch: batch.tokens * 2, ALONE)

    def work(world: World) -> Any:
        trainer = Mean()
        score = evaluate(cast("Any", trainer), batches, lambda batch: batch.tokens * 2, world)
        return score, trainer.calls

    found = in_ranks(size, work)
    assert all(score == expected for score, _ in found)
    assert {calls for _, calls in found} == {-(-6 // size)}, "all take part in as many: sharded weights need that"


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_the_launcher_is_found_in_the_environment() -> None:
    assert launched_by({}) is None
    assert launched_by({**TORCHRUN, "WORLD_SIZE": "1"}) is None
    assert launched_by(TORCHRUN) == "torch"
    assert launched_by({"MLX_RANK": "0", "MLX_HOSTFILE": "hosts.json"}) == "mlx"
    with pytest.raises(UserError, match="and MASTER_PORT is not: start with torchrun"):
        launched_by({**TORCHRUN, "MASTER_PORT": ""})


def test_the_others_wait_for_what_the_first_makes_and_share_its_mistake() -> None:
    made: list[int] = []

    def work(world: World) -> Any:
        return world.first_before_others(lambda: (made.append(world.rank), len(made))[1])

    assert in_ranks(3, work)[0] == 1
    assert made[0] == 0

    def wrong(world: World) -> Any:
        return world.of_first(lambda: (_ for _ in ()).throw(UserError("no such file")))

    assert [str(end) for end in in_ranks(2, wrong)] == ["no such file"] * 2


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 0, 120), (119, 121, 1), (5000, 0, 120)])
def test_messages_of_any_lengths_arrive_whole(lengths: tuple[int, ...]) -> None:
    """Short ones with their length in one exchange, others in a second one."""
    sent = [bytes([65 + rank]) * length for rank, length in enumerate(lengths)]
    assert in_ranks(3, lambda world: world.gather(sent[world.rank])) == [sent] * 3
    rounds = in_ranks(3, lambda world: (world.gather(sent[world.rank]), world.gathers)[1])
    assert rounds == [1 if max(lengths) <= 120 else 2] * 3
