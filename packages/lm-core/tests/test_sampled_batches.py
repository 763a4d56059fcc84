"""Batches that a run samples with its own weights: it stops and saves between two samplings alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lm_core.config import LoopConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records

from .loop_bench import FULL, TOKENS, Bench
from .small_runs import plan_of, run

WINDOWS = RandomWindows(TOKENS, 4, LengthRule(5, 9), seed=3)
SMALL = RandomWindows(TOKENS % 7, 2, LengthRule(4, 4), seed=0)


@dataclass(eq=False)
class Sampled:
    """Windows whose place depends on the weights before each third step."""

    windows: RandomWindows
    every: int = 3
    trainer: Any = None
    offset: int = 0
    bound: list[Any] = field(default_factory=list)

    def of(self, trainer: Any) -> "Sampled":
        self.bound.append(trainer)
        self.trainer = trainer
        return self

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        if step % self.every == 1:
            self.offset = 1 + int(abs(self.trainer.weights()["w"][0]) * 1e6) % 1000
        assert self.offset, "a run was resumed within a sampling"
        return self.windows.batch(step + 1000 * self.offset, rank, world)

    def shape(self, step: int) -> tuple[int, int]:
        return self.windows.shape(step)

    def metrics(self, step: int) -> Mapping[str, float | Mapping[str, float]]:
        return {"reward": step / 2, "rewards": {"correct": 1.0}}


def bench(folder: Path, **config: Any) -> Bench:
    made = Bench(folder, **{"log_every": 1, "max_steps": 12, **config})
    made.extras = {"batches": Sampled(WINDOWS).of(made.trainer)}
    return made


@pytest.mark.parametrize("asked_at", [4, 5, 6])
def test_a_run_stops_where_its_sampling_ends_and_is_resumed_to_the_bit(tmp_path: Path, asked_at: int) -> None:
    whole, parts = bench(tmp_path / "whole"), bench(tmp_path / "parts")
    whole.go()
    parts.trainer.interrupt_at = asked_at
    assert parts.go().step == 6
    again = bench(tmp_path / "parts")
    again.resume()
    again.go()
    assert again.trainer.w.tobytes() == whole.trainer.w.tobytes()
    assert again.records() == whole.records()


def test_neither_the_best_nor_what_failed_before_is_saved_within_a_sampling(tmp_path: Path) -> None:
    made = bench(tmp_path, eval_every=1, save_best=True, save_every=3)
    made.trainer.val_losses = iter(range(100, 0, -1))
    made.saves.failures, made.extras["retry_seconds"] = {6: FULL}, [0]
    made.go()
    assert made.at("save") == [3, 9, 12]


def test_a_record_has_what_the_batches_say_of_its_step(tmp_path: Path) -> None:
    made = bench(tmp_path, max_steps=3)
    made.go()
    assert [(record["reward"], record["rewards"]) for record in made.records() if record["kind"] == "train"] == [
        (step / 2, {"correct": 1.0}) for step in (1, 2, 3)
    ]


def test_the_session_gives_them_its_trainer_once(tmp_path: Path) -> None:
    class Still(Sampled):
        def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
            assert self.trainer is not None
            return self.windows.batch(step, rank, world)

    batches, folder = Still(SMALL, every=2), RunFolder(tmp_path / "run")
    run(plan_of(batches=batches), folder)
    assert len(batches.bound) == 1
    assert read_records(folder.metrics)[0]["reward"] == 0.5


@pytest.mark.parametrize(
    ("steps", "save_every", "said"), [(5, 0, "5 steps: give"), (6, 2, "2 steps between two saves")]
)
def test_a_run_that_would_end_or_save_within_a_sampling_is_one_line(
    tmp_path: Path, steps: int, save_every: int, said: str
) -> None:
    plan = plan_of(batches=Sampled(SMALL), loop=LoopConfig(max_steps=steps, save_every=save_every))
    with pytest.raises(UserError, match=said):
        run(plan, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists() or not RunFolder(tmp_path / "run").holds_run()
