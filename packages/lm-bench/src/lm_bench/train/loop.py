"""What the run loop costs: `lm_core.run.loop.train` against bare `trainer.step` calls on batches made the same way.

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
from typing import Literal

from lm_bench.cases import SEED, Case, random_walk
from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_core.backend import Trainer
from lm_core.config import LoopConfig
from lm_core.data.batches import Batch, Batches, LengthRule, RandomWindows
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.loop import Run, train
from lm_core.run.state import RunState

LoopSide = Literal["bare steps", "loop", "loop with checkpoints"]
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

    def __init__(self, batches: Batches, first: int, last: int, wait: Callable[[], None]):
        self.batches, self.first, self.last, self.wait = batches, first, last, wait
        self.started = self.seconds = 0.0

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """See `lm_core.data.batches.Batches`."""
        if step in (self.first, self.last):
            self.wait()
            now = time.perf_counter()
            self.started, self.seconds = now, now - self.started
        return self.batches.batch(step, rank, world)


def first_step() -> int:
    """The step at which the clock starts."""
    return 2 + SAVE_EVERY // 2


def bare_seconds(trainer: Trainer, batches: Batches, lr: float, steps: int, wait: Callable[[], None]) -> float:
    """The steps and nothing else."""
    wait()
    started = time.perf_counter()
    for step in range(first_step(), first_step() + steps):
        trainer.step(batches.batch(step), lr)
    wait()
    return time.perf_counter() - started


def loop_seconds(
    trainer: Trainer, batches: Batches, lr: float, steps: int, save_every: int, wait: Callable[[], None]
) -> float:
    """The same steps in the loop."""
    first = first_step()
    timed = TimedBatches(batches, first, first + steps, wait)
    # What the loop prints is not for this program's output.
    with (
        tempfile.TemporaryDirectory(prefix="lm-bench-") as name,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        folder = RunFolder(Path(name))
        run = Run(
            trainer=trainer,
            batches=timed,
            evaluation=[batches.batch(0)],
            learning_rate=lambda step: lr,
            config=LoopConfig(max_steps=first + steps, log_every=LOG_EVERY, save_every=save_every),
            log=RunLog(folder.metrics, 0, first + steps),
            checkpoints=Checkpoints(folder.checkpoints),
            facts={},
        )
        train(run, RunState(), Interrupts())  # not entered: Ctrl-C ends the measurement
        run.log.close()
    return timed.seconds


def measure(case: Case, trainer: Trainer, rounds: int, steps: int, wait: Callable[[], None]) -> list[LoopCost]:
    """Time the three in turn, with one trainer."""
    batches = RandomWindows(
        random_walk(case.model.vocab_size), case.batch_size, LengthRule(case.length, case.length), SEED
    )
    blocks: dict[LoopSide, Callable[[], float]] = {
        "bare steps": lambda: bare_seconds(trainer, batches, case.lr, steps, wait),
        "loop": lambda: loop_seconds(trainer, batches, case.lr, steps, 0, wait),
        "loop with checkpoints": lambda: loop_seconds(trainer, batches, case.lr, steps, SAVE_EVERY, wait),
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
