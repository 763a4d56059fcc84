"""Results as an aligned table."""

from collections.abc import Sequence

from lm_bench.statistics import Quartiles


def with_quartiles(q: Quartiles) -> str:
    """A median between its quartiles."""
    return f"{q.median:.3f} ({q.low:.3f}-{q.high:.3f})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
