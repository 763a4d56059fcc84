"""Countdown: reach a number with given ones. An answer is an expression, which a parser of our own reads.

    expression = term {(+|-) term}      term = factor {(*|/) factor}      factor = number | ( expression )

Division must leave no rest. The parser is recursive, and a text that is nested too deeply is a wrong answer.
"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from rlvr.tasks.task import Slip, Task, answer_of

_LARGEST, _DEEPEST = 99, 20
Term = tuple[int, str]
"""A value, and the expression that has it."""


class Countdown(Task):
    """`countdown 3,4,5:17=` -> `(3*4)+5`, or any other expression with each number at most once.

    The level is the number of operations at most.
    """

    name, levels, form = "countdown", 3, r"[0-9+*/()-]+"

    def ask(self, draw: np.random.Generator, level: int) -> str:
        """Draw numbers, and combine them at random until the target is from 1 to 99 and none of them."""
        while True:
            numbers = [int(n) for n in draw.integers(1, 10, level + 1)]
            terms: list[Term] = [(n, str(n)) for n in numbers]
            while len(terms) > 1:
                a, b = (terms.pop(int(draw.integers(len(terms)))) for _ in range(2))
                options = list(_combined(a, b))
                terms.append(options[int(draw.integers(len(options)))])
            target = terms[0][0]
            if 0 < target <= _LARGEST and target not in numbers:
                return f"{','.join(map(str, numbers))}:{target}"

    def solve(self, question: str, slip: Slip = str) -> str:
        """The first expression that a search finds."""
        numbers, target = _read(question)
        found = _search([(n, str(n)) for n in numbers], target)
        assert found is not None, "a target is made of its numbers"
        return slip(found)

    def is_right(self, question: str, text: str) -> bool:
        """Whether the expression has the target's value, and uses no number more often than it is given."""
        numbers, target = _read(question)
        answer = answer_of(text)
        used = Counter(map(int, re.findall("[0-9]+", answer)))
        return not used - Counter(numbers) and value_of(answer) == target


def value_of(text: str) -> int | None:
    """The value of an expression of whole numbers; None where it is not one, or a division leaves a rest."""
    try:
        value, rest = _expression(text, 0)
    except (ValueError, ZeroDivisionError):
        return None
    return None if rest else value


def _expression(text: str, depth: int) -> tuple[int, str]:
    value, text = _term(text, depth)
    while text[:1] in ("+", "-"):
        operator = text[0]
        right, text = _term(text[1:], depth)
        value = value + right if operator == "+" else value - right
    return value, text


def _term(text: str, depth: int) -> tuple[int, str]:
    value, text = _factor(text, depth)
    while text[:1] in ("*", "/"):
        operator = text[0]
        right, text = _factor(text[1:], depth)
        if operator == "/" and value % right:
            raise ValueError("a rest")
        value = value * right if operator == "*" else value // right
    return value, text


def _factor(text: str, depth: int) -> tuple[int, str]:
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if text[:1] == "(":
        value, text = _expression(text[1:], depth + 1)
        if text[:1] != ")":
            raise ValueError("not closed")
        return value, text[1:]
    number = re.match("[0-9]{1,9}", text)
    if not number:
        raise ValueError("not a number")
    return int(number[0]), text[number.end() :]


def _read(question: str) -> tuple[list[int], int]:
    numbers, target = question.split(":")
    return [int(number) for number in numbers.split(",")], int(target)


def _combined(a: Term, b: Term) -> Iterator[Term]:
    (x, of_x), (y, of_y) = (a, b) if a[0] >= b[0] else (b, a)
    of_x, of_y = (f"({text})" if not text.isdigit() else text for text in (of_x, of_y))
    yield x + y, f"{of_x}+{of_y}"
    yield x * y, f"{of_x}*{of_y}"
    yield x - y, f"{of_x}-{of_y}"
    if y and x % y == 0:
        yield x // y, f"{of_x}/{of_y}"


def _search(terms: list[Term], target: int) -> str | None:
    for value, text in terms:
        if value == target:
            return text
    for i, a in enumerate(terms):
        for j in range(i):
            others = [term for k, term in enumerate(terms) if k not in (i, j)]
            for made in _combined(terms[j], a):
                if found := _search([*others, made], target):
                    return found
    return None
