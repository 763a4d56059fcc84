"""Curves of a run, read once from metrics.jsonl in little memory, and the band of several seeds.

A log may have 50,000 records with a beta2 for each of a hundred tensors: numbers go to arrays as they are read, and
what a figure has no room for becomes means of neighbours.
"""

import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lm_core.report import KINDS
from lm_core.run.log import each_record

Array = NDArray[np.float64]
Curve = tuple[Array, Array]
"""Steps and values, [points] each."""
MOST = 300
"""Points of a curve that a figure has room for."""
BY_BUCKET = ("beta2", "sunspike")
_EMPTY = np.zeros(0)


class Log:
    """The numbers of a metrics file, by kind of record and key; of two of one kind and step the later one counts.

    Raises:
        OSError: when it cannot be read.
    """

    def __init__(self, path: Path):
        self._numbers: defaultdict[tuple[str, str, str], tuple[array[float], array[float]]]
        self._numbers = defaultdict(lambda: (array("d"), array("d")))
        for record in each_record(path):
            if record.get("kind") in KINDS and is_number(record["step"]):
                for key, value in record.items():
                    named = value.items() if isinstance(value, dict) and key in BY_BUCKET else [("", value)]
                    for name, number in named:
                        if is_number(number):
                            steps, values = self._numbers[record["kind"], key, name]
                            steps.append(record["step"])
                            values.append(number)

    def keys(self, kind: str) -> list[str]:
        """Keys that have numbers in records of a kind, in the order in which they first came."""
        return list(dict.fromkeys(key for of, key, name in self._numbers if of == kind and not name))

    def curve(self, kind: str, key: str, name: str = "") -> Curve:
        """A number by step; empty where there is none."""
        if (kind, key, name) not in self._numbers:
            return _EMPTY, _EMPTY
        steps, values = (np.array(numbers) for numbers in self._numbers[kind, key, name])
        order = np.argsort(steps, kind="stable")
        last = np.append(np.diff(steps[order]) > 0, True)
        return steps[order][last], values[order][last]

    def by_bucket(self, key: str) -> dict[str, Curve]:
        """A training curve for each bucket, thinned."""
        return {name: thinned(self.curve(*at)) for at in self._numbers if at[:2] == ("train", key) and (name := at[2])}


@dataclass(frozen=True)
class RunCurves:
    """What the page draws of a run."""

    training: Curve
    """Loss in nats, thinned."""
    validation: Curve
    """Loss in nats."""
    seconds: Curve
    """Training time at the validation records."""
    buckets: dict[str, dict[str, Curve]]
    """beta2 and sunspike of K-beta, by bucket, thinned."""

    @property
    def losses(self) -> Curve:
        """By which runs are compared: validation losses, or training losses where there are none."""
        return self.validation if len(self.validation[0]) else self.training

    @classmethod
    def of(cls, log: Log) -> Self:
        """Those of a log."""
        return cls(
            thinned(log.curve("train", "loss_nats")),
            log.curve("eval", "loss_nats"),
            log.curve("eval", "seconds"),
            {key: log.by_bucket(key) for key in BY_BUCKET},
        )


@dataclass(frozen=True)
class Band:
    """Several curves as one, at the steps that all have."""

    steps: Array
    mean: Array
    low: Array
    high: Array


def band(curves: Iterable[Curve]) -> Band | None:
    """Mean and range of curves, as far as the shortest reaches; None where none has a point.

    One that lacks some of the shortest's steps is taken between its own.
    """
    there = [curve for curve in curves if len(curve[0])]
    if not there:
        return None
    steps = min((curve[0] for curve in there), key=lambda steps: steps[-1])
    steps = steps[steps >= max(curve[0][0] for curve in there)]
    table = np.array([np.interp(steps, *curve) for curve in there])
    return Band(steps, table.mean(0), table.min(0), table.max(0)) if len(steps) else None


def thinned(curve: Curve, most: int = MOST) -> Curve:
    """A curve of at most so many points, each the mean of neighbours, at the middle one's step."""
    steps, values = curve
    size = max(1, -(-len(steps) // most))
    starts = np.arange(0, len(steps), size)
    if size == 1 or not len(steps):
        return curve
    counts = np.diff(np.append(starts, len(steps)))
    return steps[starts + counts // 2], np.add.reduceat(values, starts) / counts


def is_number(value: object) -> bool:
    """Not NaN, and no integer that no float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
