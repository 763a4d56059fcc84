"""`lm-bench study STUDY.toml`: check, plan, run or resume, and show what came out."""

from collections.abc import Sequence
from pathlib import Path

from lm_bench.environment import core_count
from lm_bench.flags import StudyFlags
from lm_bench.study.challenge import DIFFERS, agreement_table, agreements, missing
from lm_bench.study.config import StudyConfig
from lm_bench.study.cost import plan_lines, timed
from lm_bench.study.differences import differences
from lm_bench.study.folder import check_folder, counted, read_about, read_study
from lm_bench.study.harness import Harness
from lm_bench.study.plan import Planner
from lm_bench.study.pool import StoppedError
from lm_bench.study.progress import Durations
from lm_bench.study.report import PAGE, write_report
from lm_bench.study.result import STUDY, results
from lm_core.errors import UserError
from lm_core.terminal import put, say
from lm_pipeline.trials.program import program_of
from lm_pipeline.workers import LOCAL

_ROOT = Path("runs") / "studies"
STOPPED = 130
"""Exit code of a study that was stopped, as of any program that Ctrl-C ends."""


def study(flags: StudyFlags, paths: Sequence[str]) -> int:
    """Run the study, or with --challenge one that was published; returns the exit code: 1 where it does not agree."""
    if len(paths) != (not flags.challenge):
        raise UserError("give one study file, or --challenge and the folder of one: lm-bench study STUDY.toml")
    try:
        return _challenge(Path(flags.challenge), flags) if flags.challenge else _each(paths[0], flags)
    except (StoppedError, KeyboardInterrupt):  # the latter before the runs and after them
        say("stopped: the same command resumes the study")
        return STOPPED


def _each(path: str, flags: StudyFlags) -> int:
    """Run the study of a file, or its variants."""
    found = StudyConfig.load(path)
    studies = found.each(flags.variant)
    planners = [_planner(one, path) for one in studies]
    for planner in planners:
        planner.check()  # of all of them, before the first run
    for planner in planners:
        root = Path(flags.save_dir) if flags.save_dir else _ROOT / found.name
        folder = root / planner.study.name.removeprefix(f"{found.name}-") if found.variants else root
        if code := _show_plan(planner, folder, flags) if flags.dry_run else _run(planner, folder, flags):
            return code
    return 0


def _planner(study: StudyConfig, where: str) -> Planner:
    return Planner(study, program_of(study.app), where)


def _workers(flags: StudyFlags, study: StudyConfig) -> int:
    here = max(1, core_count() // study.threads) if flags.on == LOCAL else 0
    return flags.workers or study.at_once or here


def _run(planner: Planner, folder: Path, flags: StudyFlags) -> int:
    Harness(planner.study, planner, folder, _workers(flags, planner.study), flags.on, flags.retry, flags.keep).run()
    put(write_report(folder))
    say(f"results: {folder}, page: {folder / PAGE}")
    return 0


def _show_plan(planner: Planner, folder: Path, flags: StudyFlags) -> int:
    """Print the plan with its cost; nothing is written."""
    found = differences(planner.study, planner.check())
    check_folder(folder, planner.study, planner.code, planner.data)
    done = results(folder) if (folder / STUDY).exists() else []
    durations = Durations(done) if done else timed(planner)
    put("\n".join(plan_lines(planner.study, _workers(flags, planner.study), durations, done)))
    for difference in found:
        if difference.alarm:
            put(f"alarm: {difference.line}")
    return 0


def _challenge(published: Path, flags: StudyFlags) -> int:
    """Run again what the folder of a study says, and compare."""
    folder = Path(flags.save_dir) if flags.save_dir else published.with_name(f"{published.name}-challenge")
    if folder.resolve() == published.resolve():
        raise UserError(f"--save_dir {folder} is the study that is challenged: give another one")
    planner = _planner(read_study(published), str(published / STUDY))
    before = read_about(published)
    if not before.choices:
        raise UserError(f"{published} is not complete: run its study first, or challenge another")
    if before.code != planner.code:
        say(f"note: published with code version {before.code}, and this is {planner.code}: bits may differ")
    return _run(planner, folder, flags) or _agreement(planner.study, published, folder)


def _agreement(study: StudyConfig, published: Path, own: Path) -> int:
    theirs, ours = (counted(folder, read_about(folder)) for folder in (published, own))
    found = agreements(tuple(study.arms), theirs, ours, study.smallest_effect, study.alpha)
    lacking = missing(tuple(study.arms), theirs, ours)
    put(agreement_table(found))
    for cell in lacking:
        put(f"{cell}: only one of the two has results")
    return int(bool(lacking) or not found or any(one.verdict == DIFFERS for one in found))
