"""The fastest of several ways to the same result, found by timing each the first time that one is wanted.

A way is timed on the tensors that it is wanted for, so the plain way is left only for one that was faster on this card,
at these shapes. What was found holds for the process, and is reported in a line.

Which way is the fastest is a matter of noise where two are about equal, and their bits differ: where a fixed order was
asked for, nothing is timed, and one way is always taken.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from lm_core.terminal import say

ROUNDS = 9
"""Enough for one that nothing else on the card disturbs."""
WORTH_IT = 0.99
"""Of the plain way's time, that a way must stay below."""

Way = Callable[[], Any]

_found: dict[Hashable, str] = {}


def by_the_fastest(what: str, key: Hashable, ways: Mapping[str, Way], fixed: str | None = None) -> Any:
    """The result of the fastest way.

    Args:
        what: is done, for the line that is reported.
        key: what decides how fast the ways are.
        ways: by name; the first is the plain one.
        fixed: the one for a fixed order; by default the plain one.
    """
    plain = next(iter(ways))
    if torch.are_deterministic_algorithms_enabled():
        return ways[fixed or plain]()
    if key not in _found:
        if torch.cuda.is_current_stream_capturing():
            return ways[plain]()
        times = timed(ways)
        best = min(times, key=times.__getitem__)
        _found[key] = best if times[best] < WORTH_IT * times[plain] else plain
        shown = ", ".join(f"{name} {time:.3f} ms" for name, time in times.items())
        say(f"{what}: {_found[key]} ({shown})")
    return ways[_found[key]]()


def timed(ways: Mapping[str, Way]) -> dict[str, float]:
    """Milliseconds of each way that works, the least of some rounds in which they take turns."""
    working = dict(ways)
    for name, way in ways.items():
        try:
            way()
        except Exception as error:  # a compiler's, of any kind: the plain way is there
            if name == next(iter(ways)) or isinstance(error, torch.OutOfMemoryError):
                raise
            say(f"{name} does not work here ({(str(error).strip().splitlines() or [type(error).__name__])[0]})")
            del working[name]
    times = dict.fromkeys(working, float("inf"))
    for _ in range(ROUNDS):
        for name, way in working.items():
            times[name] = min(times[name], milliseconds(way))
    return times


def milliseconds(way: Way) -> float:
    """Of one call, behind another of it, which hides how long the host takes to launch it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    way()
    start.record()
    way()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
