"""The tables of docs/scale.md, as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_bench.flags import ScaleFlags
from lm_bench.scale import failures, stragglers
from lm_bench.scale.job import JOBS, MEASURED, SMALL, Job
from lm_core.terminal import put

GPUS = (8, 64, 1024, 16384)
RANKS = (1, 8, 64, 512)
HOUR = 3600.0


@dataclass(frozen=True)
class Table:
    """A table, and the sentence over it."""

    caption: str
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        head, *rest = ("| " + " | ".join(row) + " |" for row in self.rows)
        return "\n".join([self.caption, "", head, "|" + "---|" * len(self.rows[0]), *rest])


def scale(flags: ScaleFlags) -> None:
    """`lm-bench scale`."""
    put("\n\n".join(map(str, tables(flags))))


def tables(flags: ScaleFlags) -> list[Table]:
    """All of them; the same for the same flags."""
    return [memory(), estimate(), speed(), saves(flags), waiting(flags)]


def memory() -> Table:
    """Bytes by part."""
    head = ["model", "GPUs", "rows", "weights", "copies", "gradients", "optimizer", "activations", "logits", "all"]
    rows = [head]
    for job in JOBS:
        parts = [job.memory.weights, job.copies, job.memory.gradients, job.memory.optimizer]
        parts += [job.memory.activations, job.memory.logits]
        rows.append([*_job(job), *(f"{size / 1e9:.2f}" for size in parts), f"{sum(parts) / 1e9:.1f}"])
    return Table("Memory of a GPU in GB, at the least:", rows)


def estimate() -> Table:
    """The same for one GPU against what was measured."""
    rows = [["rows of 124 M", "by paper, GiB", "measured, GiB", "by paper / measured"]]
    for count, measured in MEASURED.items():
        job = Job(SMALL, 1, "ddp", count)
        paper = (job.memory.total + job.copies) / 2**30
        rows.append([f"{count}", f"{paper:.1f}", f"{measured}", f"{paper / measured:.2f}"])
    return Table("One H100, the same estimate against the peak that was measured there:", rows)


def speed() -> Table:
    """Communication and tokens a second."""
    rows = [
        ["model", "GPUs", "rows", "GB sent", "sending, ms", "computing, ms", "tokens/s, nothing hidden", "all hidden"]
    ]
    for job in JOBS:
        least, most = job.tokens_per_second
        times = (job.communicating * 1e3, job.computing * 1e3)
        rows.append(
            [*_job(job), f"{job.sent / 1e9:.2f}", *(f"{time:,.0f}" for time in times), *map(_thousands, (least, most))]
        )
    return Table("A step of 524,288 tokens:", rows)


def saves(flags: ScaleFlags) -> Table:
    """How often to save."""
    save, restart = flags.save_seconds, flags.restart_seconds
    rows = [["GPUs", "a failure every", "Young", "Daly", "simulated", "lost at it", "lost, saving every hour"]]
    for gpus in GPUS:
        between = flags.gpu_hours * HOUR / gpus
        found = failures.simulated(save, restart, between, flags.seed)
        rows.append(
            [
                f"{gpus:,}",
                _time(between),
                *(_time(rule(save, between)) for rule in (failures.young, failures.daly)),
                f"{_time(found.every)} ± {found.error / found.every:.1%}",
                f"{found.lost:.2%}",
                f"{failures.lost(HOUR, save, restart, between):.2%}",
            ]
        )
    costs = f"where a save holds training up for {save:g} s and a restart takes {restart:g} s"
    return Table(f"Time between saves that loses least, {costs}:", rows)


def waiting(flags: ScaleFlags) -> Table:
    """What the slowest rank costs."""
    spread = flags.spread
    head = ["ranks", "normal, by formula", "simulated", "exponential, by formula", "simulated"]
    rows = [head]
    for ranks in RANKS:
        cells = []
        for kind, formula in (("normal", stragglers.largest_normal), ("exponential", stragglers.largest_exponential)):
            found = stragglers.simulated(kind, ranks, flags.seed)
            cells += [f"{spread * formula(ranks):.2%}", f"{spread * found.mean:.2%} ± {spread * found.error:.2%}"]
        rows.append([f"{ranks:,}", *cells])
    return Table(f"Time by which a step is longer than its mean where that of a rank varies by {spread:.0%}:", rows)


def _job(job: Job) -> list[str]:
    how = "" if job.gpus == 1 else f" {job.parallel.upper()}"
    return [job.size.name, f"{job.gpus}{how}", f"{job.parts} x {job.micro}"]


def _thousands(count: float) -> str:
    return f"{round(count, -3):,.0f}"


def _time(seconds: float) -> str:
    """In the unit that fits it."""
    if seconds >= 2 * 24 * HOUR:
        return f"{seconds / 24 / HOUR:,.0f} days"
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else f"{seconds / 60:.1f} min"
