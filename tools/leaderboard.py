"""Keep the tables of docs/optimizers.md equal to what the files beside them say.

    python tools/leaderboard.py write     read docs/optimizers/VARIANT/ARM.csv, then write the tables
    python tools/leaderboard.py check     compare; exit 1 on a difference

A file is the results.csv of a variant of the study, configs/study_optimizers.toml, with the arm ARM added: it has the
runs of ARM and of the baseline from one machine and one code version. So whoever adds an optimizer adds one file.
"""

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_bench.study.analysis import Analysis, Cell, Compared, Question, analyzed
from lm_bench.study.config import Goal, Scalar, StudyConfig
from lm_bench.study.estimate import written
from lm_bench.study.paired import holm_known
from lm_bench.study.result import RunResult
from lm_bench.study.sensitivity import words
from lm_bench.study.summary import p_value
from lm_bench.study.tuning import MOST_EXTENSIONS, Choice, chosen
from lm_core.errors import UserError
from lm_core.terminal import put, say

ROOT = Path(__file__).resolve().parent.parent
PAGE, ENTRIES = Path("docs/optimizers.md"), Path("docs/optimizers")
STUDY = Path("configs/study_optimizers.toml")
START, END = "<!-- tables -->", "<!-- end of tables -->"
COLUMNS = ("place", "optimizer", "loss", "95% interval", "less the baseline", "95% interval", "p", "at", "lost", "runs")
EDGE = " (at the edge of its grid)"
NONE = "Not measured.\n"
FIXED = ("arm", "budget", "stage", "backend", "seed", "status", "seconds", "steps_done", "peak_bytes", "config_hash")
"""Columns of every results.csv; between the first two are the tuned fields."""


@dataclass(frozen=True)
class Row:
    """An arm of an entry at one budget on one backend."""

    variant: str
    cell: Cell
    pair: Compared | None
    """Less the baseline of the same entry; None of the baseline itself."""
    at: str
    """The point that its tuning chose, in words."""


def read_entry(path: Path, metric: str) -> list[RunResult]:
    """The runs of a results.csv.

    Raises:
        UserError: when it is not one of a study with that metric.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        if lacking := [name for name in (*FIXED, metric) if name not in names]:
            raise UserError(f"{path}: it has no column {lacking[0]}: give the results.csv of a study")
        tuned = names[names.index("arm") + 1 : names.index("budget")]
        try:
            return [_result(row, tuned, metric) for row in reader]
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}") from None


def _result(row: dict[str, str], tuned: Iterable[str], metric: str) -> RunResult:
    return RunResult(
        row["arm"], {key: _scalar(row[key]) for key in tuned}, int(row["budget"]), int(row["seed"]), row["backend"],
        "tuning" if row["stage"] == "tuning" else "comparison",
        "complete" if row["status"] == "complete" else "failed", row["status"],
        float(row[metric]) if row[metric] else None, float(row["seconds"]), int(row["steps_done"]),
        int(row["peak_bytes"]) if row["peak_bytes"] else None, row["config_hash"], Path(row["config_hash"]),
    )  # fmt: skip


def _scalar(text: str) -> Scalar:
    try:
        return float(text)
    except ValueError:
        return text


def analysis_of(path: Path, study: StudyConfig) -> Analysis:
    """The analysis of an entry: of its arm, and the baseline on the same machine.

    Raises:
        UserError: when it lacks one of them.
    """
    arms = tuple(dict.fromkeys([study.baseline, path.stem]))
    runs = [run for run in read_entry(path, study.metric) if run.arm in arms]
    for arm in arms:
        if not any(run.arm == arm and run.stage == "comparison" for run in runs):
            raise UserError(f"{path}: it has no run of {arm} at the end of its tuning")
        check_rules(path, study, [run for run in runs if run.arm == arm], arm)
    return analyzed(Question(path.stem, study.metric, arms, study.goal, study.baseline), runs, {})


def check_rules(path: Path, study: StudyConfig, runs: Sequence[RunResult], arm: str) -> None:
    """Refuse the runs of an arm that are not those of the frozen study.

    Raises:
        UserError: for other budgets or seeds, a larger grid, or a point that is not the best of it.
    """
    points = math.prod(map(len, study.tuned.values()))
    for budget in sorted({*study.budgets, *(run.budget for run in runs)}):
        where = f"{path}: {arm}, {budget:,} steps"
        known = budget in study.budgets
        tuning, compared = (
            [run for run in runs if (run.budget, run.stage) == (budget, stage)] for stage in ("tuning", "comparison")
        )
        tried = [run.point for run in tuning if run.seed == tuning[0].seed]
        for seeds, wanted in (
            (sorted(run.seed for run in compared), range(study.seeds)),
            (sorted(run.seed for run in tuning), sorted([*study.tuning_seeds] * len(tried))),
        ):
            if seeds != (of_study := list(wanted) if known else []):
                raise UserError(f"{where}: it has the seeds {seeds}, and the study has {of_study}")
        if not points <= len(tried) <= points + MOST_EXTENSIONS:
            raise UserError(
                f"{where}: its grid has {len(tried)} points, and the study's has {points}, with at most"
                f" {MOST_EXTENSIONS} more at an edge"
            )
        best = choice_of(study, arm, budget, tuning).point
        if any(run.point != best for run in compared):
            raise UserError(f"{where}: it is compared at {words(compared[0].point)}, which is not the best of its grid")


def choice_of(study: StudyConfig, arm: str, budget: int, runs: Iterable[RunResult]) -> Choice:
    """The point that the tuning of an entry chose, and whether it lies at an edge of what was tried."""
    mine = [run for run in runs if (run.arm, run.budget, run.stage) == (arm, budget, "tuning")]
    grid = {key: tuple(dict.fromkeys(run.point[key] for run in mine)) for key in study.tuned}
    return chosen(study, arm, budget, grid, mine)


def rows_of(folder: Path, study: StudyConfig) -> list[Row]:
    """The rows of a variant."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        analysis = analysis_of(path, study)
        runs = [run for one in analysis.tuned for point in one.points for run in point.runs]
        for cell in analysis.cells:
            if cell.arm == path.stem:
                pair = next((one for one in analysis.compared if one.cell is cell), None)
                edges = choice_of(study, cell.arm, cell.budget, runs).edges
                rows.append(Row(folder.name, cell, pair, words(cell.point) + EDGE * bool(edges)))
    return rows


def tables(rows: Sequence[Row], goal: Goal) -> str:
    """A table for each variant, budget and backend, the best optimizer first."""
    p_values = holm_known([row.pair.paired.t_p if row.pair and row.pair.paired else None for row in rows])
    places: dict[tuple[str, int, str], list[tuple[float, list[str]]]] = {}
    sign = 1 if goal == "minimize" else -1
    for row, p in zip(rows, p_values, strict=True):
        score = sign * row.cell.estimate.mean if row.cell.estimate else math.inf
        place = row.variant, row.cell.budget, row.cell.backend
        places.setdefault(place, []).append((score, cells_of(row, p)))
    parts = []
    for (variant, budget, backend), found in sorted(places.items()):
        lines = [cells for _, cells in sorted(found)]
        table = markdown([list(COLUMNS), *([str(place), *cells] for place, cells in enumerate(lines, 1))])
        parts.append(f"### {variant}: {budget:,} steps, {backend}\n\n{table}")
    return "\n".join(parts)


def cells_of(row: Row, p: float | None) -> list[str]:
    """A row without its place: the arm, its metric, its difference from the baseline on the same seeds."""
    cell, pair = row.cell, row.pair
    estimate, difference = cell.estimate, pair.paired.difference if pair and pair.paired else None
    return [
        cell.arm,
        f"{estimate.mean:.4f}" if estimate else "-",
        written(estimate.interval if estimate else None),
        f"{difference.mean:+.4f}" if difference else "-",
        written(difference.interval if difference else None),
        p_value(p),
        row.at,
        str(len(cell.runs) - len(cell.by_seed)),
        str(len(cell.runs)),
    ]


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table of Markdown, the first one its header."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def page(root: Path) -> str:
    """The page with its tables made again.

    Raises:
        UserError: for an entry that cannot be read, or a folder that is not of a variant.
    """
    text = (root / PAGE).read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    folders = sorted(path for path in (root / ENTRIES).glob("*") if path.is_dir())
    study = StudyConfig.load(root / STUDY)
    rows = [row for folder in folders for row in rows_of(folder, *study.each(folder.name))]
    return f"{before}{START}\n{tables(rows, study.goal) or NONE}{END}{after}"


def main(argv: list[str]) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("write", "check"))
    action = parser.parse_args(argv).action
    try:
        wanted = page(ROOT)
    except UserError as error:
        say(f"error: {error}")
        return 2
    if action == "write":
        (ROOT / PAGE).write_text(wanted, encoding="utf-8")
    elif (ROOT / PAGE).read_text(encoding="utf-8") != wanted:
        say(f"{PAGE} is not what the files in {ENTRIES} say: uv run python tools/leaderboard.py write")
        return 1
    put(f"{PAGE}: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
