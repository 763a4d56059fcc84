"""Several seeds in one command: a run folder for each, one after another, or all at once as one model.

    --seeds 1 2 3 --save_dir S [--together]  -->  S/seed-1  S/seed-2  S/seed-3

The same command resumes: a finished run is complete at once, the one that was stopped is resumed, the others start.
`--seeds` is about the command and no key of any config: each run is the one that `--seed` alone would have made, with
`--together` but for rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from lm_core.errors import NonFiniteError, UserError
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.together import Group
from lm_core.terminal import say
from lm_core.world import current

_LARGEST, _DIGITS = 2**63 - 1, 20
_TOGETHER = "--together"
RunOne = Callable[[list[str]], int | None]
"""Takes the words of a command for one run; returns its exit code."""


def for_each_seed(
    argv: Sequence[str],
    run: RunOne,
    *,
    resume: bool = True,
    contradicts: Sequence[str] = ("seed", "resume"),
    next_steps: Callable[[Path], Sequence[str]] = lambda _folder: (),
) -> int | None:
    """Run the command, once, or once for each of its `--seeds`; returns the exit code.

    A run that diverges does not hold up the others; its exit code is returned at the end. A run that is stopped by a
    signal or a mistake ends the series; of runs that are trained together a mistake before the first step ends all.

    Args:
        argv: the words of the command.
        run: runs one.
        resume: whether a run that was started is resumed by `--resume`, or by the same words again.
        contradicts: flags that make no sense beside `--seeds`.
        next_steps: lines to print at the end, given the folder of the runs' folders.

    Raises:
        UserError: when the command cannot mean this, before the first run starts; or from a run, which ends the series.
    """
    if not has_seeds(argv):
        if _TOGETHER in argv:
            raise UserError(f"{_TOGETHER}: of which seeds? give --seeds too, such as --seeds 1 2 3")
        return run(list(argv))
    rest, seeds, save_dir, together = _read(argv)
    for name in contradicts:
        if name in map(_name, rest):
            raise UserError(f"--seeds and --{name} contradict each other: leave --{name} out")

    def words(seed: int) -> list[str]:
        folder = save_dir / f"seed-{seed}"
        again = ["--resume"] if resume and current().of_first(RunFolder(folder).holds_run) else []
        return [*rest, "--seed", str(seed), "--save_dir", str(folder), *again]

    codes = list[int]()
    with Interrupts() as interrupts:
        for code in _together(run, seeds, words) if together else _in_turn(run, seeds, words):
            codes.append(code)
            if interrupts.requested or code not in (0, NonFiniteError.exit_code):
                say("the same command resumes; finished seeds are skipped")
                return code
    for line in next_steps(save_dir):
        say(line)
    return max(codes)


def has_seeds(argv: Sequence[str]) -> bool:
    """Whether a command is for several seeds."""
    return "seeds" in map(_name, argv)


def _in_turn(run: RunOne, seeds: Sequence[int], words: Callable[[int], list[str]]) -> Iterator[int]:
    """The exit code of each run, as soon as it has ended."""
    for number, seed in enumerate(seeds, 1):
        argv = words(seed)
        say(f"seed {seed}, {number} of {len(seeds)}: {argv[argv.index('--save_dir') + 1]}")
        try:
            yield run(argv) or 0
        except NonFiniteError as error:
            say(f"seed {seed}: {error}")
            yield error.exit_code


def _together(run: RunOne, seeds: Sequence[int], words: Callable[[int], list[str]]) -> Iterator[int]:
    """The exit code of all, when they have ended; each has printed its own error."""
    say(f"seeds {', '.join(map(str, seeds))}, as one model")
    outcomes = Group((f"seed {seed}", partial(run, words(seed))) for seed in seeds).run()
    errors = [one for one in outcomes if isinstance(one, Exception) and not isinstance(one, NonFiniteError)]
    if errors:
        raise errors[0]
    yield max(one.exit_code if isinstance(one, NonFiniteError) else cast("int", one or 0) for one in outcomes)


def _read(argv: Sequence[str]) -> tuple[list[str], list[int], Path, bool]:
    """The other words, the seeds, the folder of the runs' folders, and whether they are trained together."""
    taken: dict[str, list[str]] = {"seeds": [], "save_dir": []}
    rest, name = [], ""
    for word in argv:
        if word.startswith("--"):
            name = _name(word)
            if word == _TOGETHER:
                continue
            if name in taken:
                taken[name] = [word.partition("=")[2]] if "=" in word else []
                continue
        if name in taken:
            taken[name].append(word)
        else:
            rest.append(word)
    words = taken["seeds"]
    said = f"--seeds {' '.join(words)}"
    if not words or not all(map(_is_seed, words)):
        raise UserError(f"{said}: give whole numbers from 0, such as --seeds 1 2 3")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{said}: give each seed once")
    if not taken["save_dir"] or not taken["save_dir"][-1]:
        raise UserError("--seeds: give --save_dir, the folder in which each seed gets a run folder")
    return rest, seeds, Path(taken["save_dir"][-1]), _TOGETHER in argv


def _is_seed(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < _DIGITS and int(word) <= _LARGEST


def _name(word: str) -> str:
    return word.partition("=")[0].removeprefix("--").replace("-", "_") if word.startswith("--") else ""
