"""Arithmetic: addition, and several operations from left to right, each with and without written-out steps."""

import re

import numpy as np

from rlvr.tasks.task import STEP, Slip, Task

_LARGEST = 99
"""Largest value on the way of a chain."""


class Add(Task):
    """`add 47+85=` -> `132`. The level is the number of digits."""

    name, levels, form = "add", 8, "[0-9]+"

    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw two numbers of so many digits."""
        a, b = map(int, draw.integers(10 ** (level - 1) if level > 1 else 0, 10**level, 2))
        return f"{a}+{b}"

    def solve(self, question: str, slip: Slip = str) -> str:
        """The sum."""
        return slip(str(sum(map(int, question.split("+")))))


class AddSteps(Add):
    """`addsteps 47+85=` -> `7+5=12;4+8+1=13;132`: digit by digit from the right, with the carry, and the sum."""

    name, form = "addsteps", rf"([0-9+]+=[0-9]+{STEP})+[0-9]+"

    def solve(self, question: str, slip: Slip = str) -> str:
        """A step for each digit of the longer number."""
        a, b = question.split("+")
        steps, carry, digits = list[str](), 0, ""
        for place in range(max(len(a), len(b))):
            terms = [number[-1 - place] for number in (a, b) if place < len(number)] + ["1"] * carry
            total = slip(str(sum(map(int, terms))))
            steps.append(f"{'+'.join(terms)}={total}")
            carry, digits = int(len(total) > 1), total[-1] + digits
        return STEP.join([*steps, str(int("1" * carry + digits))])


class Chain(Task):
    """`chain 3+4*2-5=` -> `9`: from left to right, whatever the operators. The level is their number."""

    name, levels, form = "chain", 8, "-?[0-9]+"
    written = False

    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw digits and operators whose values stay from 0 to 99."""
        value = int(draw.integers(1, 10))
        question = str(value)
        while level:
            operator, digit = str(draw.choice(list("+-*"))), int(draw.integers(1, 10))
            following = _applied(value, operator, digit)
            if 0 <= following <= _LARGEST:
                value, level, question = following, level - 1, f"{question}{operator}{digit}"
        return question

    def solve(self, question: str, slip: Slip = str) -> str:
        """The value; with written-out steps, what is left after each operation."""
        first, *rest = re.findall(r"[+*-]?[0-9]+", question)
        value, lines = int(first), list[str]()
        for done, term in enumerate(rest, 1):
            value = int(slip(str(_applied(value, term[0], int(term[1:])))))
            lines.append(f"{value}{''.join(rest[done:])}")
        return STEP.join(lines) if self.written else lines[-1]


class ChainSteps(Chain):
    """`chainsteps 3+4*2-5=` -> `7*2-5;14-5;9`."""

    name, form, written = "chainsteps", rf"(-?[0-9]+([+*-][0-9]+)+{STEP})*-?[0-9]+", True


def _applied(value: int, operator: str, digit: int) -> int:
    return value + digit if operator == "+" else value - digit if operator == "-" else value * digit
