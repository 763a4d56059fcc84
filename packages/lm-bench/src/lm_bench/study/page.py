"""The page of an analysis: one self-contained HTML file.

analysis --tables--> rows       analysis, curves --figures--> SVG       configs --side by side--> what differs, and all
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from lm_bench.study.analysis import Analysis, Question
from lm_bench.study.configs import Described, side_by_side
from lm_bench.study.curves import RunCurves
from lm_bench.study.figures import bucket_figures, curve_figures, interval_figures, tuning_figures
from lm_bench.study.summary import Table, tables_of
from lm_core.page import html_table, page
from lm_core.terminal import show

STYLE = """
.scroll { overflow-x: auto } .scroll td { font-size: 13px; padding-right: 12px }
.scroll td:first-child { white-space: normal; min-width: 7em }
.scroll tr:first-child td { color: var(--soft); font-weight: 600 }
.alarms { border: 2px solid #d9480f }
.alarms li { overflow-wrap: anywhere } .alarms ul { margin: 4px 0; padding-left: 18px }
summary { cursor: pointer; font-weight: 600 }
"""


def study_page(
    question: Question,
    analysis: Analysis,
    curves: Mapping[Path, RunCurves],
    arms: Mapping[str, Described],
    more: Sequence[Table] = (),
) -> bytes:
    """The file. `arms` has a run of each arm that has one, for its config and versions; `more` are further tables."""
    tables = {name: _table(table) for name, table in tables_of(question, analysis).items()}
    intervals = interval_figures(question, analysis)
    parts = [_summary(question), _alarms(analysis.alarms)]
    parts += [of.get(name, "") for name in ("final", "compared") for of in (intervals, tables)]
    parts += [*curve_figures(question, analysis.cells, curves), tables.get("reached", "")]
    parts += [*tuning_figures(question, analysis), tables.get("tuned", "")]
    parts += [
        *bucket_figures(question, analysis.cells, curves),
        tables.get("lost", ""),
        *map(_table, more),
        *_configs(arms),
    ]
    return page(show(question.title), "<main>", *parts, "</main>", style=STYLE)


def _summary(question: Question) -> str:
    rows = [[name, show(value)] for name, value in question.lines]
    return f'<div class="about wide">{html_table(rows)}</div>' if rows else ""


def _alarms(alarms: Sequence[str]) -> str:
    if not alarms:
        return ""
    lines = "".join(f"<li>{escape(show(line))}</li>" for line in alarms)
    return f'<div class="alarms wide"><strong>Alarms</strong><ul>{lines}</ul></div>'


def _table(table: Table) -> str:
    return f'<div class="wide scroll"><strong>{escape(table.title)}</strong>{html_table(table.rows)}</div>'


def _configs(arms: Mapping[str, Described]) -> list[str]:
    differing, alike = side_by_side({arm: of.config for arm, of in arms.items()})
    abouts = {arm: of.about for arm, of in arms.items() if of.about}
    versions = [
        (show(arm), show(about.backend), show(about.device), show(about.dtype)) for arm, about in abouts.items()
    ]
    parts = []
    if len(differing) > 1:
        parts.append(_table(Table("Configs: what differs", differing)))
    if alike:
        title = f"<summary>Configs: {len(alike)} keys that all have alike</summary>"
        parts.append(f'<details class="wide about">{title}{html_table(alike)}</details>')
    if versions:
        parts.append(_table(Table("Versions and devices", [("arm", "backend", "device", "dtype"), *versions])))
    return parts
