"""Tasks by name: those that come with the app, and one's own, `FILE.py:CLASS`."""

import difflib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_core.errors import UserError
from rlvr.tasks.arithmetic import Add, AddSteps, Chain, ChainSteps
from rlvr.tasks.brackets import Brackets
from rlvr.tasks.countdown import Countdown
from rlvr.tasks.reward import reward
from rlvr.tasks.strings import Copy, Reverse, Sort
from rlvr.tasks.task import Problem, Split, Task
from rlvr.vocabulary import END, encode

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Copy, Reverse, Sort, Add, AddSteps, Chain, ChainSteps, Countdown, Brackets)
}
_TRIED = 20
"""Problems of each level that are tried before a task is used."""


@dataclass(frozen=True)
class Mixture:
    """Tasks that take turns."""

    tasks: tuple[Task, ...]

    def problem(self, seed: int, index: int, split: Split) -> Problem:
        """The problem of an index; errors as `Task.problem`."""
        return self.tasks[index % len(self.tasks)].problem(seed, index, split)


def mixture(names: Sequence[str], lowest: int, highest: int, seq_len: int) -> Mixture:
    """The tasks of some names, tried.

    Args:
        names: of `TASKS`, or `FILE.py:CLASS`.
        lowest: the easiest level.
        highest: the hardest one.
        seq_len: the model's context, into which a prompt with its solution must fit.

    Raises:
        UserError: for what is not a task, levels that it does not have, a prompt and solution that do not fit, and a
            task whose checker refuses its own solution.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"tasks: name one or more of {', '.join(TASKS)}, each once")
    tasks = tuple(_class_of(name)(lowest, highest) for name in names)
    for task in tasks:
        for level in range(lowest, highest + 1):
            alone = type(task)(level, level)
            for index in range(_TRIED):
                check(alone.problem(0, index, "train"), seq_len)
    return Mixture(tasks)


def check(problem: Problem, seq_len: int) -> None:
    """Refuse a problem that does not fit a context, or whose own solution is not right.

    Raises:
        UserError: saying which.
    """
    check_length(problem, seq_len)
    encode(problem.prompt + problem.solution)
    if not reward(problem, problem.solution + END)["correct"]:
        raise UserError(f"task {problem.task.name}: its checker refuses its own solution {problem.solution!r}")


def check_length(problem: Problem, seq_len: int) -> None:
    """Refuse a problem that does not fit a context with its solution and the end.

    Raises:
        UserError: naming it.
    """
    whole = len(problem.prompt) + len(problem.solution) + 1
    if whole > seq_len:
        raise UserError(
            f"{problem.prompt}{problem.solution} has {whole} characters with its end, and the model reads {seq_len}:"
            " lower max_level, or train a model with a larger seq_len"
        )


def absolute(name: str) -> str:
    """The name of a task, whose file is found from any folder."""
    path, colon, own = name.rpartition(":")
    return f"{Path(path).expanduser().resolve()}:{own}" if colon else name


def _class_of(name: str) -> type[Task]:
    path, colon, own = name.rpartition(":")
    if not colon:
        if name in TASKS:
            return TASKS[name]
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}, and your own as FILE.py:CLASS"
        raise UserError(f"tasks: unknown task {name!r}; {hint}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"tasks: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise UserError(f"tasks: {path} cannot be loaded: {type(error).__name__}: {error}") from None
    found = getattr(module, own, None)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UserError(f"tasks: {path} has no class {own} that is a rlvr.tasks.task.Task")
    return found
