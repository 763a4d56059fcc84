"""`transformerlm-sweep`: the trials of a sweep file, one after another or several at once, without Weights & Biases.

    sweep.yaml --trials_of--> trials --transformerlm-train, a process each--> run folders --result.json--> sweep.csv

A trial's folder is named by its flags: killed and started again, a sweep resumes the trials that it was in, and skips
those that are complete. Trials run here or on Ray (`lm_pipeline.workers`).
"""

import csv
import io
from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import Field

from lm_core.cli import parse_flags
from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import open_regular
from lm_core.errors import NonFiniteError, UserError
from lm_core.run.folder import RunFolder
from lm_core.run.session import read_result
from lm_core.terminal import put, say
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import folder_of, plan_run
from lm_pipeline.program import ProgramConfig, run_program
from lm_pipeline.trials.config import SweepFile, Trial, read_sweep, trials_of
from lm_pipeline.trials.metric import check_metric
from lm_pipeline.workers import interruptible, workers

PROGRAM = "transformerlm-sweep"
TABLE = "sweep.csv"


class SweepConfig(ProgramConfig):
    """Train with every combination, or random draws, of the values in a sweep file, and compare the runs."""

    sweep: str = ""
    """Sweep file in the format of Weights & Biases: method grid or random, metric, parameters with dotted keys."""
    count: int = Field(0, ge=0)
    """Maximum number of trials, at most 1000; 0: the whole grid, or the file's run_cap or 10 for random."""
    seed: int = Field(0, ge=0)
    """Seed of the draws, not of the runs."""
    save_dir: str = ""
    """Folder of the trials and of sweep.csv; runs/sweeps/<name of the sweep file> when empty."""
    on: str = "local"
    """Where trials run: local, ray (started on this machine), or a Ray cluster: ray://host:10001, host:6379, auto."""
    workers: int = Field(0, ge=0)
    """Trials at a time; 0: one, and on Ray one for each GPU, or for each core where there is none."""


def main() -> int:
    """The program; returns its exit code."""
    return run_program(SweepConfig, PROGRAM, sweep)


def sweep(config: SweepConfig) -> None:
    """Run what has not been run, and print the table.

    Raises:
        UserError: for a mistake in the sweep file or in the flags of any trial, before the first one runs.
    """
    if not config.sweep:
        raise UserError("sweep: give a sweep file, such as configs/sweep.yaml")
    file = read_sweep(config.sweep)
    folder = Path(config.save_dir) if config.save_dir else Path("runs") / "sweeps" / Path(config.sweep).stem
    _check_table(folder / TABLE)
    check_metric(file.metric.name, "metric.name")
    trials = trials_of(file, config.count, config.seed)
    for trial in trials:
        _check(trial, folder)
    for note in file.notes():
        say(f"note: {note}")
    try:
        with interruptible(), workers(config.on, config.workers) as pool:
            for trial, code in pool.programs(partial(_command, folder), _to_run(file, trials, folder)):
                _check_code(trial, code)
                _write_table(file, trials, folder)
    except KeyboardInterrupt:
        say("the same command resumes the sweep")
        raise
    _write_table(file, trials, folder)
    if reached := _reached(file, trials, folder):
        say(f"trial {reached.name} has reached metric.target {file.metric.target}")
    put(_table(file, trials, folder), end="")
    say(f"table: {folder / TABLE}")


def _to_run(file: SweepFile, trials: list[Trial], folder: Path) -> Iterator[Trial]:
    """The trials without a result, until one has reached the target; each is reported as it starts."""
    for number, trial in enumerate(trials, 1):
        if _reached(file, trials, folder):
            return
        if _result(folder / trial.name) is None:
            say(f"trial {number} of {len(trials)}, {trial.name}: {_in_words(trial)}")
            yield trial


def _reached(file: SweepFile, trials: list[Trial], folder: Path) -> Trial | None:
    """The first trial whose result is as good as the target, if there is one."""
    if file.metric.target is None:
        return None
    found = ((trial, _result(folder / trial.name) or {}) for trial in trials)
    return next((trial for trial, result in found if file.metric.reached(result.get(file.metric.name))), None)


def _check_table(path: Path) -> None:
    """Refuse a table of that name that no sweep wrote."""
    start = b"trial,"
    try:
        with open_regular(path) as file:
            own = file.read(len(start)) == start
    except FileNotFoundError:
        return
    except OSError:
        own = False
    if not own:
        raise UserError(f"{path} was not written by a sweep: move it away, or give another save_dir")


def _check(trial: Trial, folder: Path) -> None:
    """Check a trial's flags now, and not after hours of other trials."""
    try:
        if not (folder / trial.name).exists():
            config = parse_flags(TrainConfig, PROGRAM, _flags(trial, folder / trial.name))
            _check_nulls(trial, config)
            plan_run(config, folder_of(config))
    except UserError as error:
        raise UserError(f"trial {_in_words(trial)}: {error}") from None


def _flags(trial: Trial, folder: Path) -> list[str]:
    """Flags of the trial, and its folder, without the console, which nobody reads, and W&B, which needs an account."""
    return [*trial.words, "--save_dir", str(folder), "--logging.backend"]


def _command(folder: Path, trial: Trial) -> list[str]:
    """The program of a trial: it starts, or resumes what an earlier attempt has left."""
    resume = ["--resume"] if RunFolder(folder / trial.name).holds_run() else []
    return ["lm_pipeline.commands.train", *_flags(trial, folder / trial.name), *resume]


def _check_code(trial: Trial, code: int) -> None:
    """Divergence is a result; any other failure ends the sweep."""
    if code not in (0, NonFiniteError.exit_code):
        raise UserError(f"trial {trial.name} ended with exit code {code}; what was finished is kept")


def _check_nulls(trial: Trial, config: TrainConfig) -> None:
    """Refuse null for flags that need a value: as a text it would be the word None."""
    for name in (name for name, value in trial.values.items() if value is None):
        if attrgetter(name)(config) is not None:
            raise UserError(f"{name} cannot be null: leave it out for its default")


def _result(folder: Path) -> dict[str, Any] | None:
    """Result of a finished trial."""
    return read_result(RunFolder(folder)) or None


def _in_words(trial: Trial) -> str:
    return ", ".join(f"{name} {value}" for name, value in trial.values.items())


def _rows(file: SweepFile, trials: list[Trial], folder: Path) -> list[list[str]]:
    """A heading, then the trials from the best to the worst, those without a result last."""
    names, metric = list(file.parameters), file.metric.name
    others = [key for key in ("metrics.val_loss", "metrics.best_val_loss", "step", "metrics.seconds") if key != metric]
    sign = 1 if file.metric.goal == "minimize" else -1
    found = [(trial, _result(folder / trial.name) or {}) for trial in trials]
    found.sort(key=lambda pair: (pair[1].get(metric) is None, sign * (pair[1].get(metric) or 0)))
    rows = [["trial", metric, *others, *names]]
    for trial, result in found:
        figures = [str(result.get(key, "")) for key in (metric, *others)]
        rows.append([trial.name, *figures, *(str(trial.values[name]) for name in names)])
    return rows


def _write_table(file: SweepFile, trials: list[Trial], folder: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(file, trials, folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TABLE, text.getvalue().encode())
    except OSError as error:
        raise UserError(f"cannot write {folder / TABLE}: {error.strerror}") from None


def _table(file: SweepFile, trials: list[Trial], folder: Path) -> str:
    rows = [[_short(cell) for cell in row] for row in _rows(file, trials, folder)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def _short(cell: str) -> str:
    try:
        return f"{float(cell):.6g}"
    except ValueError:
        return cell
