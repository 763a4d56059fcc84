"""Cost of a session's loop: `lm_core.run.session` against bare `trainer.step` calls on batches made the same way.

The loop evaluates at its first and last step and saves when it ends; those are not the loop's cost per step, so the
clock runs between two starts of steps in the middle: half an interval of saving after one save and before the next, so
that what a save does in the background is in the time too.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from lm_bench.cases import SEED, Case, random_walk
from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_core.backend import Backend, Trainer
from lm_core.config import AdamWConfig, LoopConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch, Batches, LengthRule, RandomWindows
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.plan import Plan
from lm_core.run.resume import Policy

LoopSide = Literal["bare steps", "loop", "loop with checkpoints"]
Wait = Callable[[], None]
LOG_EVERY = 20
SAVE_EVERY = 100


@dataclass(frozen=True)
class LoopCost:
    """One way to take the steps."""

    case: str
    side: LoopSide
    steps: int
    step_ms: Quartiles
    ratio: Quartiles | None
    """Time of this side / time of the bare steps within each round: what the loop costs."""


class TimedBatches:
    """Batches that note when those of the steps `first` and `last` are asked for.

    Attributes:
        seconds: between the two.
    """

    def __init__(self, batches: Batches, first: int, last: int, wait: Wait):
        self.batches, self.first, self.last, self.wait = batches, first, last, wait
        self.started = self.seconds = 0.0

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """See `lm_core.data.batches.Batches`."""
        if step in (self.first, self.last):
            self.wait()
            now = time.perf_counter()
            self.started, self.seconds = now, now - self.started
        return self.batches.batch(step, rank, world)

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of `step`."""
        return self.batches.shape(step)


def first_step() -> int:
    """The step at which the clock starts."""
    return 2 + SAVE_EVERY // 2


def bare_seconds(trainer: Trainer, batches: Batches, lr: float, steps: int, wait: Wait) -> float:
    """The steps and nothing else."""
    wait()
    started = time.perf_counter()
    for step in range(first_step(), first_step() + steps):
        trainer.step(batches.batch(step), lr)
    wait()
    return time.perf_counter() - started


class _Prepared:
    """A backend whose trainer is there already."""

    name = "prepared"

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def build(self, *_: object) -> Trainer:
        return self.trainer

    def describe(self, _: object) -> str:
        return self.name

    def memory(self, _: object) -> None:
        return None

    def peak_memory(self, _: object) -> int:
        return 1

    def peak_flops(self, _: object) -> None:
        return None


class _Ids:
    """Stands for the tokenizer of ids that are of no text."""

    name = fingerprint = "ids"

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""

    def is_saved_in(self, folder: Path) -> bool:
        """There is nothing to look for."""
        return True


def loop_seconds(case: Case, trainer: Trainer, batches: Batches, steps: int, save_every: int, wait: Wait) -> float:
    """The same steps in a session."""
    first = first_step()
    timed, interrupts = TimedBatches(batches, first, first + steps, wait), Interrupts()
    loop = LoopConfig(max_steps=first + steps, log_every=LOG_EVERY, save_every=save_every)
    # What the loop prints is not for this program's output.
    with (
        tempfile.TemporaryDirectory(prefix="lm-bench-") as name,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        plan = Plan(
            config=loop,
            policy=Policy(refused="", recorded="", no_effect="", call=""),
            command="",
            resume_command="",
            backend=_Prepared.name,
            seed=SEED,
            model=case.model,
            optimizer=AdamWConfig(),
            step=StepConfig(),
            schedule=ScheduleConfig(peak_lr=case.lr),
            loop=loop,
            batches=timed,
            evaluation=[batches.batch(0)],
            data="",
            training_tokens=1,
            tokenizer=_Ids(),
            weights={},
        )
        session.run(plan, RunFolder(Path(name)), backend=cast("Backend", _Prepared(trainer)), interrupts=interrupts)
    if interrupts.requested:
        raise KeyboardInterrupt
    return timed.seconds


def measure(case: Case, trainer: Trainer, rounds: int, steps: int, wait: Wait) -> list[LoopCost]:
    """Time the three in turn, with one trainer."""
    batches = RandomWindows(
        random_walk(case.model.vocab_size), case.batch_size, LengthRule(case.length, case.length), SEED
    )
    blocks: dict[LoopSide, Callable[[], float]] = {
        "bare steps": lambda: bare_seconds(trainer, batches, case.lr, steps, wait),
        "loop": lambda: loop_seconds(case, trainer, batches, steps, 0, wait),
        "loop with checkpoints": lambda: loop_seconds(case, trainer, batches, steps, SAVE_EVERY, wait),
    }
    seconds = interleaved(list(blocks), rounds, lambda side: blocks[side]())
    bare = seconds["bare steps"]
    return [
        LoopCost(
            case=case.name,
            side=side,
            steps=steps,
            step_ms=Quartiles.of([1e3 * s / steps for s in sample]),
            ratio=None if sample is bare else ratios(bare, sample),
        )
        for side, sample in seconds.items()
    ]
