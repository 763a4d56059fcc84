"""A task: problems without end, each a pure function of (seed, index, split), and a checker of answers.

    (seed, index, split) --level, question, until its hash is of the split--> Problem --model--> completion --reward-->

The splits are disjoint by construction: a hash of the question alone says which one it belongs to, whatever drew it.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from lm_core.errors import UserError
from lm_core.rng import generator
from rlvr.tasks.guard import guarded

Split = Literal["train", "validation", "test"]
Slip = Callable[[str], str]
"""Gives back what was computed, or in a noisy demonstration something else."""
STEP = ";"
"""Stands between written-out steps; the answer comes last."""
_HELD_OUT = 26
"""Of 256 questions, those of either held-out split."""
_TRIES = 2000


def split_of(question: str) -> Split:
    """The split that a question belongs to: a tenth of all for validation, a tenth for the test."""
    first = hashlib.sha256(question.encode()).digest()[0]
    return "test" if first < _HELD_OUT else "validation" if first < 2 * _HELD_OUT else "train"


def answer_of(text: str) -> str:
    """What stands behind the last step."""
    return text.rpartition(STEP)[2]


@dataclass(frozen=True)
class Problem:
    """A question, and how it is answered."""

    task: "Task"
    question: str
    level: int
    solution: str
    """Written-out steps, where the task has them, and the answer."""

    @property
    def prompt(self) -> str:
        """What the model reads."""
        return f"{self.task.name} {self.question}="

    @property
    def answer(self) -> str:
        """The end of the solution; of some tasks, one of several right answers."""
        return answer_of(self.solution)


class Task(ABC):
    """A task of one's own names itself and its levels, and defines `ask` and `solve`.

    Args:
        lowest: the easiest level of its problems.
        highest: the hardest; all levels from `lowest` on are equally frequent.

    Raises:
        UserError: when it has no such levels.
    """

    name: ClassVar[str]
    """The first word of a prompt, in characters of the vocabulary."""
    levels: ClassVar[int]
    """The hardest level; the easiest is 1."""
    form: ClassVar[str] = f"[^{STEP}]+({STEP}[^{STEP}]+)*"
    """Regular expression that a whole text in the right format matches."""

    def __init__(self, lowest: int = 1, highest: int | None = None) -> None:
        self.lowest, self.highest = lowest, self.levels if highest is None else highest
        if not 1 <= self.lowest <= self.highest <= self.levels:
            raise UserError(
                f"task {self.name} has the levels 1 to {self.levels}, not {self.lowest} to {self.highest}:"
                " give others as min_level and max_level"
            )

    @abstractmethod
    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw a question of a level."""

    @abstractmethod
    def solve(self, question: str, slip: Slip = str) -> str:
        """The steps and the answer, what is computed on the way being passed through `slip`."""

    def is_right(self, question: str, text: str) -> bool:
        """Check the answer of a text: by default, against the solution's."""
        return answer_of(text) == answer_of(self.solve(question))

    def is_formed(self, question: str, text: str) -> bool:
        """Whether a text has the right format: by default, that of `form`, and as many steps as the solution."""
        return bool(re.fullmatch(self.form, text)) and text.count(STEP) == self.solve(question).count(STEP)

    def problem(self, seed: int, index: int, split: Split) -> Problem:
        """The problem of an index.

        Raises:
            UserError: when the split has none of that level, or the task fails.
        """
        draw = generator(seed, "problem", self.name, split, index)
        level = int(draw.integers(self.lowest, self.highest, endpoint=True))
        with guarded(self.name, f"a question of level {level}"):
            for _ in range(_TRIES):
                question = self.ask(draw, level)
                if split_of(question) == split:
                    return Problem(self, question, level, self.solve(question))
        raise UserError(f"task {self.name}: level {level} has no question for the {split} split: raise min_level")
