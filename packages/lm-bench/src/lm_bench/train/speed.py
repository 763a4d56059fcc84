"""Forward and backward, or whole steps, of all sides in turn: times, ratios, and the proof that all train one model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat

from lm_bench.agreement import TOLERANCE_NATS, Agreement, agreement
from lm_bench.cases import Case
from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_bench.train.sides import OURS, Side, SideName
from lm_core.data.batches import Batch
from lm_core.model.flops import flops_per_token

SpeedPart = Literal["forward_backward", "step"]
WARMUP_ROUNDS = 2


@dataclass(frozen=True)
class Speed:
    """One side in one part on one case."""

    case: str
    part: SpeedPart
    side: str
    step_ms: Quartiles
    tokens_per_second: Quartiles
    ratio: Quartiles | None
    """Time of ours / time of this side within each round; below 1 ours is faster."""
    peak_share: float | None
    """Operations that the model needs, over those that the machine can do in that time, where its peak is known."""


@dataclass(frozen=True)
class Proof:
    """How far a peer's losses are from ours."""

    case: str
    part: SpeedPart
    side: str
    agreement: Agreement


class Runner:
    """Takes blocks of steps with one side, and keeps its losses unread, as the run loop does between two logs."""

    def __init__(self, side: Side, part: SpeedPart, lr: float, blocks: Sequence[Sequence[Batch]]):
        self.side, self.part, self.lr = side, part, lr
        self.blocks: Iterator[Sequence[Batch]] = iter(blocks)
        self.losses: list[SupportsFloat] = []

    def run_block(self, wait: Callable[[], None]) -> float:
        """Seconds that the next block takes, until the device has finished it."""
        block = next(self.blocks)
        wait()
        started = time.perf_counter()
        for batch in block:
            self.losses.append(self._take(batch))
        wait()
        return time.perf_counter() - started

    def _take(self, batch: Batch) -> SupportsFloat:
        if self.part == "forward_backward":
            return self.side.forward_backward(batch)
        return self.side.step(batch, self.lr)


def measure(
    case: Case,
    part: SpeedPart,
    sides: Mapping[SideName, Side],
    rounds: int,
    steps: int,
    wait: Callable[[], None],
    peak_flops: float,
) -> tuple[list[Speed], list[Proof]]:
    """Time all sides on the same batches, `steps` in a block.

    Raises:
        NotSameModelError: when the losses show that two sides are not the same model.
    """
    batches = case.batches(steps * (WARMUP_ROUNDS + rounds))
    blocks = [batches[i : i + steps] for i in range(0, len(batches), steps)]
    runners = {name: Runner(side, part, case.lr, blocks) for name, side in sides.items()}
    seconds = interleaved(list(sides), rounds, lambda name: runners[name].run_block(wait), WARMUP_ROUNDS)
    [ours] = (name for name in sides if name.who == OURS)
    losses = {name: [float(loss) for loss in runner.losses] for name, runner in runners.items()}
    proofs = []
    for name in sides:
        if name != ours:
            tolerance = max(TOLERANCE_NATS[ours.dtype], TOLERANCE_NATS[name.dtype])
            proofs.append(
                Proof(case.name, part, str(name), agreement(losses[ours], losses[name], tolerance, f"that of {name}"))
            )
    tokens = steps * batches[0].tokens
    flops = tokens * flops_per_token(case.model, case.length)
    speeds = [
        Speed(
            case=case.name,
            part=part,
            side=str(name),
            step_ms=Quartiles.of([1e3 * s / steps for s in sample]),
            tokens_per_second=Quartiles.of([tokens / s for s in sample]),
            ratio=None if name == ours else ratios(sample, seconds[ours]),
            peak_share=Quartiles.of([flops / s / peak_flops for s in sample]).median if peak_flops else None,
        )
        for name, sample in seconds.items()
    ]
    return speeds, proofs
