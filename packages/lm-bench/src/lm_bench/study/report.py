"""The report of a study's folder: its analysis as text, and as page.html beside its results.

study.toml, study.json --> question, alarms        trials --results--> analysis        metrics.jsonl --> curves
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from lm_bench.study.analysis import Question, analyzed
from lm_bench.study.config import StudyConfig
from lm_bench.study.configs import Described
from lm_bench.study.curves import Log, RunCurves
from lm_bench.study.folder import StudyAbout, counted, read_about, read_study
from lm_bench.study.page import study_page
from lm_bench.study.power import power_line
from lm_bench.study.result import RunResult
from lm_bench.study.sensitivity import words
from lm_bench.study.summary import study_text
from lm_core.disk.files import write_whole
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder

PAGE = "page.html"


def write_report(folder: Path) -> str:
    """Write the page of a study's folder, and return the same as text.

    Raises:
        UserError: when it is not the folder of a study, no run has its metric, or it cannot be written.
    """
    study, about = read_study(folder), read_about(folder)
    runs = counted(folder, about)
    question, curves = question_of(study, about), read_curves(run for run in runs if run.stage == "comparison")
    analysis = analyzed(question, runs, curves)
    arms = {arm: Described(config, None) for arm, config in about.resolved.items()}
    try:
        write_whole(folder / PAGE, study_page(question, analysis, curves, arms))
    except OSError as error:
        raise UserError(f"cannot write {folder / PAGE}: {error.strerror}") from None
    return study_text(question, analysis)


def question_of(study: StudyConfig, about: StudyAbout) -> Question:
    """What a study asks."""
    chosen = [one for one in about.choices if one.point]
    best = {(one.arm, one.budget): words(one.point or {}) + " (at the edge)" * bool(one.edges) for one in chosen}
    return Question(
        study.name,
        study.metric,
        tuple(study.arms),
        study.goal,
        study.baseline,
        study.target,
        (
            ("Question", study.question),
            ("Planned", power_line(study)),
            *(("Measured on", str(machine["line"])) for machine in about.machines),
            ("Code version", about.code),
        ),
        best,
        tuple(about.alarms),
    )


def read_curves(runs: Iterable[RunResult]) -> dict[Path, RunCurves]:
    """Curves of runs by their folders; of those whose log cannot be read none."""
    found = {}
    for run in runs:
        with contextlib.suppress(OSError):
            found[run.folder] = RunCurves.of(Log(RunFolder(run.folder).metrics))
    return found
