"""Results as an aligned table and as one line of proof each."""

from collections.abc import Sequence

from lm_bench.statistics import Quartiles
from lm_bench.step import StepResult

HEADER = ("case", "backend", "ours ms", "bare ms", "ratio (quartiles)")
MEMORY_HEADER = ("peak MiB ours/bare", "ratio", "above import MiB", "ratio")


def step_table(results: Sequence[StepResult]) -> str:
    """One row for each result."""
    with_memory = any(result.memory for result in results)
    rows: list[tuple[str, ...]] = [HEADER + MEMORY_HEADER if with_memory else HEADER]
    for result in results:
        times = result.times
        row: tuple[str, ...] = (
            result.case,
            result.backend,
            f"{times.ours_ms.median:.2f}",
            f"{times.bare_ms.median:.2f}",
            with_quartiles(times.ratio),
        )
        rows.append(row + _memory_cells(result) if with_memory else row)
    return aligned(rows)


def with_quartiles(q: Quartiles) -> str:
    """A median between its quartiles."""
    return f"{q.median:.3f} ({q.low:.3f}-{q.high:.3f})"


def _memory_cells(result: StepResult) -> tuple[str, ...]:
    if result.memory is None:
        return ("",) * len(MEMORY_HEADER)
    ours, bare = result.memory["ours"], result.memory["bare"]
    return (
        f"{ours.peak:.0f}/{bare.peak:.0f}",
        f"{ours.peak / bare.peak:.2f}",
        f"{ours.added:.0f}/{bare.added:.0f}",
        f"{ours.added / bare.added:.2f}",
    )


def proof(result: StepResult) -> str:
    """The line that says both sides trained the same model."""
    a = result.times.agreement
    return (
        f"same model: {result.case} on {result.backend}: the losses of both agree within {a.worst:.1e} nats"
        f" (limit {a.tolerance:g}) over {a.steps} steps, {a.first_loss:.3f} -> {a.last_loss:.3f}"
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
