"""The tidy table of a study: one row for each finished run, as CSV, and as Parquet where pyarrow is installed."""

import csv
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from lm_bench.study.config import StudyConfig
from lm_bench.study.result import RunResult

CSV, PARQUET = "results.csv", "results.parquet"


def rows_of(study: StudyConfig, runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """A row for each run; the tuned keys are columns of their names."""
    return [
        {
            "arm": run.arm,
            **{key: run.point.get(key) for key in study.tuned},
            "budget": run.budget,
            "stage": run.stage,
            "backend": run.backend,
            "seed": run.seed,
            "status": run.status,
            study.metric: run.metric,
            "steps_done": run.steps_done,
            "seconds": run.seconds,
            "peak_bytes": run.peak_bytes,
            "config_hash": run.config_hash,
            "message": run.message,
        }
        for run in runs
    ]


def tables_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Files of the table: name and content."""
    if not rows:
        return []
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return [(CSV, text.getvalue().encode()), *([(PARQUET, _parquet(rows))] if find_spec("pyarrow") else [])]


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    columns = {key: _column([row[key] for row in rows]) for key in rows[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: a tuned key may have numbers and texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) < 2:
        return [float(v) if v is not None and kinds == {int, float} else v for v in values]
    return [None if value is None else str(value) for value in values]
