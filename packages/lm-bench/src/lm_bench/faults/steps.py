"""A run resumed at each of its steps, in one process: one long run that keeps every checkpoint, then one from each."""

import json
import shutil
from pathlib import Path

from lm_bench.faults import child
from lm_bench.faults.outcome import Outcome, differences
from lm_bench.faults.trial import Trial
from lm_core.errors import exit_code_of
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts


def main(trial: Trial) -> int:
    """Writes a JSON line to `trial.announced` for each step: the step, and in what the resumed run differs."""
    with Interrupts(echo=0):
        return exit_code_of(lambda: _run(trial), "steps")


def _run(trial: Trial) -> None:
    root = Path(trial.folder)
    whole = trial.model_copy(
        update={"folder": str(root / "whole"), "save_every": 1, "keep": trial.steps, "announced": ""}
    )
    child.run(whole)
    expected = Outcome.of(Path(whole.folder))
    checkpoints = Checkpoints(RunFolder(Path(whole.folder)).checkpoints)
    stems = {checkpoints.read(path).step: path.stem for path in checkpoints.folder.glob("*.metadata")}
    with Path(trial.announced).open("w", encoding="utf-8") as results:
        for step in range(1, trial.steps):
            folder = root / str(step)
            _fork_off(Path(whole.folder), folder, stems[step])
            child.run(whole.model_copy(update={"folder": str(folder), "save_every": 0}))
            results.write(json.dumps([step, differences(Outcome.of(folder), expected)]) + "\n")
            shutil.rmtree(folder)


def _fork_off(whole: Path, folder: Path, stem: str) -> None:
    """A run folder as it was when a checkpoint had just been saved, but for a log that continues."""
    run, copy = RunFolder(whole), RunFolder(folder)
    copy.checkpoints.mkdir(parents=True)
    shutil.copy(run.metrics, copy.metrics)
    for suffix in (".safetensors", ".metadata"):
        shutil.copy(run.checkpoints / f"{stem}{suffix}", copy.checkpoints)
