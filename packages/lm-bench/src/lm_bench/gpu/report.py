"""The results of `lm-bench gpu` as one table."""

from collections.abc import Sequence
from typing import get_args

from lm_bench.flags import GpuFlags, GpuPart
from lm_bench.gpu.measurement import NOT_MEASURED, Results, Row
from lm_bench.statistics import with_quartiles
from lm_core.terminal import aligned

HEADER = ("side", "figure", "unit", "first / this", "GiB", "TFLOP/s", "note")


def gpu_report(results: Results, flags: GpuFlags) -> str:
    """Everything, for people."""
    lines = [
        f"medians over {flags.rounds} rounds, {results.seconds:.0f} s; first / this: the figure of the group's first"
        " side over that of this one, above 1 the first is faster",
        "TFLOP/s: what the model needs (6 N + 12 L D T for each token), not what was executed",
    ]
    if results.device != "cuda":
        lines.append("tiny shapes on a CPU: this shows that the command works, and says nothing about speed")
    missing = [part for part in get_args(GpuPart) if part not in flags.parts]
    if missing:
        lines.append(f"{NOT_MEASURED}: {', '.join(missing)}")
    for group in dict.fromkeys(row.group for row in results.rows):
        lines += ["", group, _table([row for row in results.rows if row.group == group])]
    return "\n".join(lines)


def row_line(row: Row) -> str:
    """One row as it comes."""
    if row.figure is None:
        return f"{row.group}: {row.side}: {row.note}"
    return f"{row.group}: {row.side}: {_number(row.figure.median)} {row.unit} {row.note}".rstrip()


def _table(rows: Sequence[Row]) -> str:
    return aligned([HEADER, *map(_cells, rows)])


def _cells(row: Row) -> tuple[str, ...]:
    figure = "-" if row.figure is None else _number(row.figure.median)
    ratio = with_quartiles(row.ratio) if row.ratio else ""
    gib = "" if row.peak_gib is None else f"{row.peak_gib:.1f}"
    tflops = "" if row.tflops is None else f"{row.tflops:.0f}"
    note = f"TF32; {row.note}".rstrip("; ") if row.tf32 else row.note
    return row.side, figure, row.unit, ratio, gib, tflops, note


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"
