"""The measurement behind `lm-bench step`: our training step against the bare loop, from the same weights and batches.

case -> two sides -> interleaved blocks of steps -> losses must agree -> ratio of times, ratio of peak memories
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsFloat

from lm_bench.agreement import TOLERANCE_NATS, Agreement, agreement
from lm_bench.cases import Case
from lm_bench.memory import Memory, MemoryJob, measure
from lm_bench.peers import Step
from lm_bench.sides import BackendName, SideName, make_step
from lm_bench.statistics import Quartiles
from lm_bench.timing import interleave
from lm_core.config import StepConfig
from lm_core.data.batches import Batch

WARMUP_ROUNDS = 2
MEMORY_STEPS = 20


@dataclass(frozen=True)
class StepTimes:
    """Time per step of both sides."""

    ours_ms: Quartiles
    bare_ms: Quartiles
    ratio: Quartiles
    """Ours / bare within each round; below 1 we are faster."""
    agreement: Agreement


@dataclass(frozen=True)
class StepResult:
    """One case on one backend."""

    case: str
    backend: BackendName
    times: StepTimes
    memory: dict[SideName, Memory] | None


class Runner:
    """Runs one side, a block at a time, and keeps its losses unread, as the run loop does between two logs."""

    def __init__(self, step: Step, blocks: list[list[Batch]]):
        self.step = step
        self.blocks: Iterator[list[Batch]] = iter(blocks)
        self.losses: list[SupportsFloat] = []

    def run_block(self) -> None:
        """The next block; reads its last loss, which waits for the device."""
        for batch in next(self.blocks):
            self.losses.append(self.step(batch))
        float(self.losses[-1])


def compare(ours: Step, bare: Step, batches: list[Batch], rounds: int, tolerance: float) -> StepTimes:
    """Time two steps on `batches`, which are dealt out evenly over `rounds` and the warm-up before them.

    Raises:
        NotSameModelError: when the losses show that the two are not the same model.
    """
    steps = len(batches) // (WARMUP_ROUNDS + rounds)
    blocks = [batches[i : i + steps] for i in range(0, len(batches), steps)]
    runners = Runner(ours, blocks), Runner(bare, blocks)
    times = interleave(runners[0].run_block, runners[1].run_block, rounds, WARMUP_ROUNDS)
    losses = [[float(loss) for loss in runner.losses] for runner in runners]
    return StepTimes(
        ours_ms=Quartiles.of([1e3 * seconds / steps for seconds in times.ours]),
        bare_ms=Quartiles.of([1e3 * seconds / steps for seconds in times.bare]),
        ratio=Quartiles.of(times.ratios),
        agreement=agreement(losses[0], losses[1], tolerance),
    )


def measure_times(backend: BackendName, case: Case, config: StepConfig, rounds: int, steps: int) -> StepTimes:
    """Time `case` on `backend`, in this process."""
    ours = make_step(backend, "ours", case, config)
    bare = make_step(backend, "bare", case, config)
    batches = case.batches(steps * (WARMUP_ROUNDS + rounds))
    return compare(ours, bare, batches, rounds, TOLERANCE_NATS[config.dtype])


def measure_memory(backend: BackendName, case: Case, config: StepConfig) -> dict[SideName, Memory]:
    """Peak memory of `case` on `backend`, each side in a process of its own."""
    sides: tuple[SideName, ...] = ("ours", "bare")
    return {
        side: measure(
            MemoryJob(
                backend=backend,
                side=side,
                case=case.name,
                steps=MEMORY_STEPS,
                dtype=config.dtype,
                compile=config.compile,
            )
        )
        for side in sides
    }
