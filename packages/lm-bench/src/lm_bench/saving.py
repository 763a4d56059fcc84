"""The measurement behind `lm-bench saving`: how long a save of some 500 MB holds training up.

a step, finished -> snapshot() -> milliseconds            the first, and the median of the later ones
a step, finished -> weights() + optimizer_state()         the same by copies, for comparison
steps, with a save on a thread in their midst / without   what it costs in all: the copy, and the thread's work
"""

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lm_bench.cases import SEED, Case
from lm_bench.flags import BackendName
from lm_bench.rounds import interleaved
from lm_bench.statistics import Quartiles
from lm_core.backend import Trainer, load_backend
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.init import initial_arrays
from lm_core.run.checkpoint import Checkpoints
from lm_core.terminal import aligned

# 42.5 million parameters, and AdamW's two averages of each.
CASE = Case(
    "saving",
    ModelConfig(vocab_size=65, seq_len=64, d_model=768, n_layers=6, n_heads=12),
    AdamWConfig(),
    batch_size=2,
    lr=1e-4,
)
SAVE_AFTER = 2
"""Steps before the save."""


@dataclass(frozen=True)
class Saving:
    """Cost of a save on one backend."""

    backend: BackendName
    megabytes: float
    """10^6 bytes of weights and state."""
    first_ms: float
    """The first snapshot, which may have to find its memory."""
    later_ms: Quartiles
    copies_ms: Quartiles
    """weights() and optimizer_state()."""
    steps: int
    plain_s: Quartiles
    saving_s: Quartiles
    extra_ms: Quartiles
    """Steps with a save - steps without, within each round."""
    writer_s: Quartiles
    """The thread's own time; where it is more than the steps', they did not see all of it."""


def measure(backend: BackendName, case: Case, config: StepConfig, rounds: int, steps: int) -> Saving:
    """Measure `case` on `backend`, in this process."""
    trainer = load_backend(backend).build(case.model, case.optimizer, config, initial_arrays(case.model, SEED), SEED)
    batches = case.batches(max(steps, 2))

    def hold_ms(take: Callable[[], object]) -> float:
        _run(trainer, batches[:2], case.lr)
        started = time.perf_counter()
        take()
        return 1e3 * (time.perf_counter() - started)

    first = hold_ms(trainer.snapshot)
    later = [hold_ms(trainer.snapshot) for _ in range(rounds)]
    copies = [hold_ms(lambda: (trainer.weights(), trainer.optimizer_state())) for _ in range(rounds)]
    size = sum(array.nbytes for arrays in trainer.snapshot()() for array in arrays.values())

    writers: list[float] = []

    def block(saves: bool) -> float:
        with tempfile.TemporaryDirectory(prefix="lm-bench-") as folder:
            seconds, writer = _steps_around_a_save(trainer, batches[:steps], case.lr, Path(folder) if saves else None)
        writers.extend([writer] if saves else [])
        return seconds

    seconds = interleaved([False, True], rounds, block)
    return Saving(
        backend=backend,
        megabytes=size / 1e6,
        first_ms=first,
        later_ms=Quartiles.of(later),
        copies_ms=Quartiles.of(copies),
        steps=steps,
        plain_s=Quartiles.of(seconds[False]),
        saving_s=Quartiles.of(seconds[True]),
        extra_ms=Quartiles.of([1e3 * (b - a) for a, b in zip(seconds[False], seconds[True], strict=True)]),
        writer_s=Quartiles.of(writers),
    )


def _run(trainer: Trainer, batches: list[Batch], lr: float) -> None:
    """The steps; the loss of an evaluation waits for the update of the last."""
    for batch in batches:
        trainer.step(batch, lr)
    float(trainer.evaluate(batches[-1]))


def _steps_around_a_save(trainer: Trainer, batches: list[Batch], lr: float, folder: Path | None) -> tuple[float, float]:
    """Seconds of the steps and of the thread that saves into `folder` meanwhile, if there is one."""
    spent = [0.0]
    started = time.perf_counter()
    _run(trainer, batches[:SAVE_AFTER], lr)
    thread = None
    if folder is not None:
        read = trainer.snapshot()

        def save() -> None:
            begun = time.perf_counter()
            weights, state = read()
            Checkpoints(folder).save(weights, state, {"step": SAVE_AFTER, "val_loss": None})
            spent[0] = time.perf_counter() - begun

        thread = threading.Thread(target=save, name="save")
        thread.start()
    _run(trainer, batches[SAVE_AFTER:], lr)
    seconds = time.perf_counter() - started
    if thread is not None:
        thread.join()
    return seconds, spent[0]


def saving_table(results: list[Saving]) -> str:
    """One row for each backend."""
    header = ("backend", "MB", "first snapshot ms", "later (quartiles)", "copies ms", "extra ms", "writer s")
    return aligned([header, *map(_row, results)])


def _row(r: Saving) -> tuple[str, ...]:
    later, extra = r.later_ms, r.extra_ms
    return (
        r.backend,
        f"{r.megabytes:.0f}",
        f"{r.first_ms:.1f}",
        f"{later.median:.1f} ({later.low:.1f}-{later.high:.1f})",
        f"{r.copies_ms.median:.1f}",
        f"{extra.median:.0f} ({extra.low:.0f}-{extra.high:.0f}) on {1e3 * r.plain_s.median:.0f}",
        f"{r.writer_s.median:.1f}",
    )
