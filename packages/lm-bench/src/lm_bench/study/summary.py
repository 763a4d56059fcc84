"""An analysis as tables of text, which the terminal and the page show alike.

A column of which all cells are empty is left out; a budget, backend or baseline that all rows share is in the title.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lm_bench.study.analysis import Analysis, Question
from lm_bench.study.estimate import Estimate, written
from lm_bench.study.median import Median
from lm_bench.study.sensitivity import words
from lm_core.model.memory import readable
from lm_core.terminal import aligned, show

Rows = list[tuple[str, ...]]
_PLACES = {"against": "less {}", "budget": "{} steps", "backend": "{}"}
"""Columns that may be part of the title, and how they are written there."""


@dataclass(frozen=True)
class Table:
    """Rows under a title, a header first."""

    title: str
    rows: Rows


def study_text(question: Question, analysis: Analysis) -> str:
    """Everything for people."""
    parts = [question.title, *(f"{name}: {value}" for name, value in question.lines)]
    parts += [f"ALARM: {line}" for line in analysis.alarms]
    tables = [f"{table.title}\n{aligned(table.rows)}" for table in tables_of(question, analysis).values()]
    return "\n\n".join(["\n".join(map(show, parts)), *tables])


def tables_of(question: Question, analysis: Analysis) -> dict[str, Table]:
    """The tables that have rows: final, compared, reached, tuned, lost."""
    several = len(analysis.compared)
    corrected = f"p corrected for {several} comparisons" if several > 1 else "p of one comparison"
    tables = {
        "final": (f"{question.metric}, mean over seeds", _final(analysis)),
        "compared": (f"Paired differences, {corrected}", _compared(analysis)),
        "reached": (f"To a validation loss of {question.target} nats, median over seeds", _reached(analysis)),
        "tuned": ("Tuning", _tuned(question, analysis)),
        "lost": ("Runs that diverged or failed", _lost(analysis)),
    }
    return {name: _short(show(title), rows) for name, (title, rows) in tables.items() if len(rows) > 1}


def _final(analysis: Analysis) -> Rows:
    rows: Rows = [("arm", "budget", "backend", "mean", "95% (t)", "sd", "runs", "lost", "95% (bootstrap)", "at")]
    for cell in analysis.cells:
        mean, interval, deviation, bootstrap = _estimate(cell.estimate)
        lost = ", ".join(f"seed {run.seed} {run.status}" for run in cell.runs if run.metric is None)
        place = (show(cell.arm), _steps(cell.budget), cell.backend)
        count = str(len(cell.by_seed))
        rows.append((*place, mean, interval, deviation, count, lost, bootstrap, show(words(cell.point))))
    return rows


def _compared(analysis: Analysis) -> Rows:
    header = ("arm", "against", "budget", "backend", "difference", "95% (t)", "p (t)", "effect (d_z)", "sd", "pairs")
    rows: Rows = [(*header, "95% (bootstrap)", "p (sign flips)")]
    for one in analysis.compared:
        cell, pair = one.cell, one.paired
        place = (show(cell.arm), show(one.against.arm), _steps(cell.budget), cell.backend)
        if pair is None:
            rows.append((*place, "no seed in common", *[""] * 7))
            continue
        mean, interval, deviation, bootstrap = _estimate(pair.difference)
        signed = f"+{mean}" if pair.difference.mean > 0 else mean
        effect = "-" if pair.effect is None else f"{pair.effect:+.2f}"
        numbers = (signed, interval, p_value(one.t_p), effect, deviation, str(pair.difference.n), bootstrap)
        rows.append((*place, *numbers, p_value(one.flips_p)))
    return rows


def _reached(analysis: Analysis) -> Rows:
    header = ("arm", "budget", "backend", "steps", "95%", "seconds", "95%", "memory", "speed-up in steps", "95%")
    rows: Rows = [(*header, "speed-up in time", "95%", "never reached by")]
    for one in analysis.reached:
        cell, all_miss = one.cell, len(one.missed) == len(one.cell.runs)
        missed = "all" if all_miss else f"seed {', '.join(map(str, one.missed))}" if one.missed else ""
        memory = readable(int(one.peak_bytes.value)) if one.peak_bytes else ""
        times = (*_median(one.steps, "{:,.0f}".format), *_median(one.seconds, "{:,.1f}".format))
        ratios = (*_ratio(one.faster_in_steps), *_ratio(one.faster_in_seconds))
        rows.append((show(cell.arm), _steps(cell.budget), cell.backend, *times, memory, *ratios, missed))
    return rows


def _tuned(question: Question, analysis: Analysis) -> Rows:
    """A row for each arm and budget, a column for each point of a grid."""
    points = dict.fromkeys(words(point.point) for one in analysis.tuned for point in one.points)
    rows: Rows = [("arm", "budget", "best", *map(show, points))]
    for one in analysis.tuned:
        cells = {words(point.point): _mean(point.metrics) or point.runs[0].status for point in one.points}
        best = show(question.best.get((one.arm, one.budget), ""))
        rows.append((show(one.arm), _steps(one.budget), best, *(cells.get(point, "") for point in points)))
    return rows


def _lost(analysis: Analysis) -> Rows:
    rows: Rows = [("arm", "seed", "status", "why", "after", "stage", "budget", "backend", "at", "folder")]
    for run in analysis.lost:
        place = (_steps(run.budget), run.backend, show(words(run.point)), show(run.folder.name))
        after = f"{run.steps_done:,} steps"
        rows.append((show(run.arm), str(run.seed), run.status, show(run.message), after, run.stage, *place))
    return rows


def p_value(p: float | None) -> str:
    """A p-value."""
    return "-" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _steps(budget: int) -> str:
    return f"{budget:,}" if budget else ""


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4f}" if values else ""


def _estimate(estimate: Estimate | None) -> tuple[str, str, str, str]:
    """Mean, t interval, standard deviation, bootstrap interval."""
    if estimate is None:
        return "no complete run", "", "", ""
    deviation = "-" if estimate.deviation is None else f"{estimate.deviation:.4f}"
    return f"{estimate.mean:.4f}", written(estimate.interval), deviation, written(estimate.bootstrap)


def _ratio(median: Median | None) -> tuple[str, str]:
    return _median(median, "{:.2f}".format, "∞")


def _median(median: Median | None, form: Callable[[float], str], infinite: str = "never") -> tuple[str, str]:
    if median is None:
        return "", ""
    ends = [form(end) if end < math.inf else infinite for end in (median.value, *(median.interval or ()))]
    return ends[0], f"[{ends[1]}, {ends[2]}]" if median.interval else "-"


def _short(title: str, rows: Rows) -> Table:
    kept = []
    for name, *cells in zip(*rows, strict=True):
        if name in _PLACES and len(set(cells)) == 1 and cells[0]:
            title += f", {_PLACES[name].format(cells[0])}"
        elif any(cells):
            kept.append((name, *cells))
    return Table(title, list(zip(*kept, strict=True)))
