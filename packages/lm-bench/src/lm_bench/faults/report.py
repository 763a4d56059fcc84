"""The campaign's table, for a terminal and for `docs/reliability.md`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lm_bench.environment import Environment
from lm_bench.faults.campaign import ROWS
from lm_bench.faults.row import Row
from lm_core.errors import UserError
from lm_core.terminal import aligned

HEADER = ("what is done", "backend", "trials", "lost saves", "resumed", "same to the bit", "seconds")
_LISTED = 10
"""Violations of a row that are printed; the JSON has all."""


def faults_table(rows: Sequence[Row]) -> str:
    """One line for each row and backend, then what was measured beside, then what went wrong."""
    return "\n".join([aligned([HEADER, *map(_cells, rows)]), *_lines(rows)])


def faults_markdown(rows: Sequence[Row], environment: str) -> str:
    """The same as a section of a page."""
    head = f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}"
    body = "\n".join(f"| {' | '.join(_cells(row))} |" for row in rows)
    said = "\n".join(f"- {line}" for line in _lines(rows) if line)
    return f"{environment}\n\n{head}\n{body}\n\n{said}".rstrip()


def read_results(paths: Sequence[str]) -> tuple[str, list[Row]]:
    """The machines, with their highest load, and the rows of campaigns printed as JSON, in the order of the table.

    Raises:
        UserError: for a file that is none.
    """
    machines: dict[str, Environment] = {}
    rows = []
    for path in paths:
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
            environment = Environment(**said["environment"])
            same = machines.setdefault(replace(environment, load=0.0).line, environment)
            if same.load < environment.load:
                machines[replace(environment, load=0.0).line] = environment
            rows += [Row(**row) for row in said["results"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not the JSON of a campaign ({error})") from None
    return "\n".join(machine.line for machine in machines.values()), sorted(
        rows, key=lambda row: list(ROWS).index(row.name)
    )


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return (ROWS[row.name][1], row.backend, f"skipped: {row.skipped}", "", "", "", "")
    counts = (row.trials, row.lost_saves, row.resumed, row.same)
    return (ROWS[row.name][1], row.backend, *(f"{count:,}" for count in counts), f"{row.seconds:.0f}")


def _lines(rows: Sequence[Row]) -> list[str]:
    notes = [f"{ROWS[row.name][1]}, {row.backend}: {note}" for row in rows for note in row.notes]
    violations: list[str] = []
    for row in rows:
        violations += [f"VIOLATED on {row.backend}: {text}" for text in row.violations[:_LISTED]]
        if len(row.violations) > _LISTED:
            violations.append(f"VIOLATED on {row.backend}: {len(row.violations) - _LISTED:,} more in {row.name}")
    return ["", *notes, *violations] if notes or violations else []
