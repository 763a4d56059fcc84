"""Balanced brackets: close what is open."""

import numpy as np

from rlvr.tasks.task import Slip, Task

_PAIRS = dict(zip("([{", ")]}", strict=True))


class Brackets(Task):
    """`brackets [({}[=` -> `])]`: what closes all that is open, and nothing else. A level more is two brackets more."""

    name, levels, form = "brackets", 8, r"[)\]}]+"

    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw the start of a balanced sequence that is not balanced yet."""
        text, still_open = "", ""
        for _ in range(2 * level + 1):  # an odd number: something is left open
            if still_open and draw.random() < 0.4:
                text, still_open = text + _PAIRS[still_open[-1]], still_open[:-1]
            else:
                opened = str(draw.choice(list(_PAIRS)))
                text, still_open = text + opened, still_open + opened
        return text

    def solve(self, question: str, slip: Slip = str) -> str:
        """What closes the innermost one first."""
        still_open = list[str]()
        for bracket in question:
            if bracket in _PAIRS:
                still_open.append(_PAIRS[bracket])
            else:
                still_open.pop()
        return "".join(map(slip, reversed(still_open)))
