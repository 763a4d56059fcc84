"""Several seeds in one command: a run folder for each, one after another.

    --seeds 1 2 3 --save_dir S  -->  S/seed-1  S/seed-2  S/seed-3

The same command resumes: a finished run is complete at once, the one that was stopped goes on, the others start.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from lm_core.errors import NonFiniteError, UserError
from lm_core.run.folder import RunFolder
from lm_core.terminal import say

RunOne = Callable[[list[str], Path], bool]
"""Takes the words of a run's own command and its folder; says whether the run has come to its end."""


def run_seeds(argv: Sequence[str], seeds: Sequence[int], save_dir: str, run_one: RunOne) -> int:
    """Run each seed in a folder of its own; returns the exit code. A run that diverges does not hold up the others.

    Args:
        argv: the words of the command, `--seeds` among them, or in the file of `--config`.
        seeds: what it gives.
        save_dir: the folder of the runs' folders.
        run_one: runs one.

    Raises:
        UserError: when the command cannot mean this, before the first run starts; or from a run, which ends the series.
    """
    _check(argv, seeds, save_dir)
    diverged = []
    for number, seed in enumerate(seeds, 1):
        folder = Path(save_dir) / f"seed-{seed}"
        say(f"seed {seed}, {number} of {len(seeds)}: {folder}")
        try:
            finished = run_one([*_without(argv), "--seed", str(seed), "--save_dir", str(folder)], folder)
        except NonFiniteError as error:
            say(f"seed {seed}: {error}")
            diverged.append(seed)
            continue
        if not finished:
            say(f"stopped at seed {seed}: the same command resumes it, and starts the seeds after it")
            return 0
    say(f"to compare: uv run lm-bench compare {save_dir}")
    return NonFiniteError.exit_code if diverged else 0


def resume_words(folder: Path) -> list[str]:
    """The flag that resumes a run in the folder, if one has begun there."""
    return ["--resume"] if RunFolder(folder).holds_run() else []


def _check(argv: Sequence[str], seeds: Sequence[int], save_dir: str) -> None:
    if not save_dir:
        raise UserError("--seeds: give --save_dir, the folder in which each seed gets a run folder")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: each seed once")
    for name in ("seed", "resume"):
        if any(_name(word) == name for word in argv):
            raise UserError(f"--seeds and --{name} contradict each other: leave --{name} out")


def _without(argv: Sequence[str]) -> list[str]:
    words, skipping = [], False
    for word in argv:
        skipping = _name(word) in ("seeds", "save_dir") if word.startswith("--") else skipping
        if not skipping:
            words.append(word)
    return words


def _name(word: str) -> str:
    return word.partition("=")[0].removeprefix("--").replace("-", "_") if word.startswith("--") else ""
