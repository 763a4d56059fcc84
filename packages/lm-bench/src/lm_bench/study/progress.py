"""The progress of a study: a live table on a terminal, a line for each run otherwise; and how long it will take."""

import sys
import time
from collections.abc import Iterable, Sequence
from statistics import fmean

from lm_bench.study.plan import Trial
from lm_bench.study.result import RunResult, Stage
from lm_core.terminal import aligned, is_terminal, put, say, visible

_REFRESH_SECONDS = 1.0
_UP_AND_CLEAR = "\x1b[{}F\x1b[J"


class Durations:
    """Seconds that jobs take, in proportion to the steps, by what those of the same arm and stage took.

    As long as none of these is known, by those of the same arm, and else by all.
    """

    def __init__(self, runs: Iterable[RunResult] = ()):
        self._per_step: dict[tuple[str, str], list[float]] = {}
        for run in runs:
            self.add(run)

    def add(self, run: RunResult) -> None:
        """Learn from a finished run."""
        if run.status == "complete" and run.steps_done and run.seconds:
            self._per_step.setdefault((run.arm, run.stage), []).append(run.seconds / run.steps_done)

    def of(self, arm: str, steps: int, stage: Stage = "comparison") -> float | None:
        """Seconds of so many steps; None where nothing is known."""
        known = self._per_step.get((arm, stage)) or self._all(arm) or self._all()
        return fmean(known) * steps if known else None

    def _all(self, arm: str = "") -> list[float]:
        return [each for (of, _), timed in self._per_step.items() if not arm or of == arm for each in timed]

    def total(self, trials: Iterable[Trial]) -> float | None:
        """Seconds of trials, one job after the other."""
        total = 0.0
        for trial in trials:
            seconds = self.of(trial.arm, trial.budget, trial.stage)
            if seconds is None:
                return None
            total += seconds / trial.in_job
        return total


class Progress:
    """Shows how far a study has come.

    Args:
        name: of the study.
        workers: jobs at once.
        done: runs that are finished already.
    """

    def __init__(self, name: str, workers: int, done: Sequence[RunResult]):
        self.name, self.workers, self.runs = name, workers, list(done)
        self.durations = Durations(done)
        self._live = is_terminal(sys.stdout)
        self._shown, self._lines = 0.0, 0
        self.left: list[Trial] = []

    def expect(self, trials: Sequence[Trial]) -> None:
        """Trials that are to come, as far as they are known."""
        self.left = list(trials)

    def finished(self, run: RunResult) -> None:
        """Take a result."""
        self.runs.append(run)
        self.durations.add(run)
        self.left = [trial for trial in self.left if trial.hash != run.config_hash]
        what = f"{run.metric:.5g}" if run.metric is not None else run.status
        words = Trial(**{key: getattr(run, key) for key in _OF_A_TRIAL}, hash=run.config_hash, toml="").words
        line = f"{words}: {what}" + (f" ({run.message})" if run.message else "")
        self._clear()
        if not self._live or run.status != "complete":
            say(f"{line}; {self._left()}")

    def show(self, running: Sequence[tuple[Trial, int]], force: bool = False) -> None:
        """Draw the live table, once a second; `running` has the steps that each has done."""
        if not self._live or (time.monotonic() < self._shown + _REFRESH_SECONDS and not force):
            return
        self._shown = time.monotonic()
        rows = [["arm", "budget", "tuning", "compared", "mean", "not complete"], *self._rows()]
        now = [f"  running: {trial.words}, step {step:,}" for trial, step in running]
        text = "\n".join([f"{self.name}: {self._left()}", aligned(rows), *now])
        self._clear()
        put(visible(text), styled=True)
        self._lines = text.count("\n") + 1

    def _clear(self) -> None:
        if self._live and self._lines:
            put(_UP_AND_CLEAR.format(self._lines), end="", styled=True)
            self._lines = 0

    def _rows(self) -> Iterable[list[str]]:
        known: list[RunResult | Trial] = [*self.runs, *self.left]
        for arm, budget in dict.fromkeys((run.arm, run.budget) for run in known):
            mine = [run for run in self.runs if (run.arm, run.budget) == (arm, budget)]
            stages = {stage: [run for run in mine if run.stage == stage] for stage in ("tuning", "comparison")}
            metrics = [run.metric for run in stages["comparison"] if run.metric is not None]
            counts = [str(len(runs)) for runs in stages.values()]
            mean = f"{fmean(metrics):.5g}" if metrics else "-"
            yield [arm, f"{budget:,}", *counts, mean, str(sum(run.status != "complete" for run in mine))]

    def _left(self) -> str:
        """The count of runs, and the time left where that is known."""
        seconds = self.durations.total(self.left)
        count = f"{len(self.runs)} of {len(self.runs) + len(self.left)} runs"
        return count if seconds is None else f"{count}, {in_words(seconds / self.workers)} left"


_OF_A_TRIAL = ("arm", "point", "budget", "seed", "backend", "stage")


def in_words(seconds: float) -> str:
    """A time, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
