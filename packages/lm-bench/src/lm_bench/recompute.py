"""The measurement behind `lm-bench recompute`: a training step with and without gradient checkpointing.

two trainers -> interleaved blocks of steps -> the same losses -> ratio of times; each alone in a process -> peak memory

What to expect. Without it, a block of a GELU model keeps for the backward pass, in vectors of D for each token: its
input 1, the first norm's output 1, q, k and v 3, what attention gives 1, the sum after it 1, the second norm's output
1, and the MLP's two of 4 D, 8. With it, each block keeps its input alone, and one at a time has all of the others:

    saved = (n_layers - 1) * 15 * D * tokens * bytes

MLX, which has no fused attention to train with on the CPU, keeps the attention weights besides: N T values for each
token. Operations: forward 1, backward 2 and forward again 1, so a step takes up to 4/3 of the time.
"""

from dataclasses import dataclass

from lm_bench.agreement import TOLERANCE_NATS, Agreement, agreement
from lm_bench.cases import CASES, Case
from lm_bench.memory import MIB, Memory, MemoryJob
from lm_bench.memory import measure as measure_memory
from lm_bench.rounds import interleaved, ratios
from lm_bench.sides import BackendName, make_step
from lm_bench.statistics import Quartiles
from lm_bench.step import Runner
from lm_bench.table import aligned, with_quartiles
from lm_bench.timing import timed
from lm_core.config import StepConfig

CASE = CASES["blocks12"]
KEPT_PER_TOKEN = 15
"""Vectors of D that a block keeps beside its input."""
MEMORY_STEPS = 3
"""The second step is the first that has gradients, optimizer state and activations all at once."""
WARMUP_ROUNDS = 1


@dataclass(frozen=True)
class Recompute:
    """What gradient checkpointing saves and costs on one backend."""

    case: str
    backend: BackendName
    kept_ms: Quartiles
    recomputed_ms: Quartiles
    ratio: Quartiles
    """Time with / without within each round."""
    kept: Memory
    recomputed: Memory
    saved_mib: float
    predicted_mib: float
    agreement: Agreement


def predicted_mib(case: Case, backend: BackendName, bytes_each: int) -> float:
    """What it should save, see above."""
    c = case.model
    for_each_token = KEPT_PER_TOKEN * c.d_model + (c.n_heads * case.length if backend == "mlx" else 0)
    return (c.n_layers - 1) * for_each_token * case.batch_size * case.length * bytes_each / MIB


def measure(backend: BackendName, case: Case, config: StepConfig, rounds: int, steps: int) -> Recompute:
    """Time both in this process, and measure the memory of each in one of its own; `case` is one of `CASES`."""
    batches = case.batches(steps * (WARMUP_ROUNDS + rounds))
    blocks = [batches[i : i + steps] for i in range(0, len(batches), steps)]
    runners = {
        again: Runner(
            make_step(backend, "ours", case, config.model_copy(update={"gradient_checkpointing": again})), blocks
        )
        for again in (False, True)
    }
    seconds = interleaved([False, True], rounds, lambda again: timed(runners[again].run_block), WARMUP_ROUNDS)
    kept, recomputed = (_memory(backend, case, config, again) for again in (False, True))
    cost = ratios(seconds[False], seconds[True])
    assert cost is not None
    losses = [[float(loss) for loss in runner.losses] for runner in runners.values()]
    return Recompute(
        case=case.name,
        backend=backend,
        kept_ms=_per_step(seconds[False], steps),
        recomputed_ms=_per_step(seconds[True], steps),
        ratio=cost,
        kept=kept,
        recomputed=recomputed,
        saved_mib=kept.added - recomputed.added,
        predicted_mib=predicted_mib(case, backend, 2 if config.dtype == "bfloat16" else 4),
        agreement=agreement(losses[1], losses[0], TOLERANCE_NATS[config.dtype], "that without checkpointing"),
    )


def _memory(backend: BackendName, case: Case, config: StepConfig, again: bool) -> Memory:
    return measure_memory(
        MemoryJob(
            backend=backend,
            side="ours",
            case=case.name,
            steps=MEMORY_STEPS,
            dtype=config.dtype,
            compile=config.compile,
            gradient_checkpointing=again,
        )
    )


def _per_step(seconds: list[float], steps: int) -> Quartiles:
    return Quartiles.of([1e3 * s / steps for s in seconds])


def recompute_table(results: list[Recompute]) -> str:
    """One row for each backend."""
    header = (
        "case",
        "backend",
        "ms kept/again",
        "ratio (quartiles)",
        "above import MiB",
        "ratio",
        "saved/predicted MiB",
    )
    return aligned([header, *map(_row, results)])


def _row(r: Recompute) -> tuple[str, ...]:
    return (
        r.case,
        r.backend,
        f"{r.kept_ms.median:.0f}/{r.recomputed_ms.median:.0f}",
        with_quartiles(r.ratio),
        f"{r.kept.added:.0f}/{r.recomputed.added:.0f}",
        f"{r.recomputed.added / r.kept.added:.2f}",
        f"{r.saved_mib:.0f}/{r.predicted_mib:.0f}",
    )
