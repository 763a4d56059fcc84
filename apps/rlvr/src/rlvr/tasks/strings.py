"""Strings: copied, reversed, sorted. A level more is a character more."""

import string

import numpy as np

from rlvr.tasks.task import Slip, Task

_SHORTEST = 2
"""Characters of level 0."""


class Copy(Task):
    """`copy plum=` -> `plum`."""

    name, levels, form = "copy", 14, "[a-z]+"

    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw a word."""
        return "".join(draw.choice(list(string.ascii_lowercase), level + _SHORTEST))

    def solve(self, question: str, slip: Slip = str) -> str:
        """The word, letter by letter."""
        return "".join(map(slip, question))


class Reverse(Copy):
    """`reverse plum=` -> `mulp`."""

    name = "reverse"

    def solve(self, question: str, slip: Slip = str) -> str:
        """The word from its end, letter by letter."""
        return "".join(map(slip, reversed(question)))


class Sort(Task):
    """`sort 3141=` -> `1134`."""

    name, levels, form = "sort", 14, "[0-9]+"

    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw digits."""
        return "".join(map(str, draw.integers(0, 10, level + _SHORTEST)))

    def solve(self, question: str, slip: Slip = str) -> str:
        """The digits from the smallest on."""
        return "".join(map(slip, sorted(question)))
