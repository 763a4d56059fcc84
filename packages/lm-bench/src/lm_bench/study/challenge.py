"""Agreement of a study that was run again with the one that was published.

published runs, own runs --paired by what they are--> equal to the bit, or means within the published intervals
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_bench.study.estimate import Estimate, written
from lm_bench.study.result import RunResult
from lm_core.terminal import aligned

Key = tuple[str, int, str]
"""Arm, budget and backend."""


@dataclass(frozen=True)
class Agreement:
    """Two samples of one cell, and whether they agree."""

    key: Key
    published: Estimate
    own: Estimate
    equal: int
    """Seeds whose metrics are equal to the bit."""
    common: int
    """Seeds that both have."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.common == self.published.n == self.own.n == self.equal:
            return "bit for bit"
        low, high = self.published.interval or (self.published.mean, self.published.mean)
        return "within its interval" if low <= self.own.mean <= high else "differs"


def agreements(published: Sequence[RunResult], own: Sequence[RunResult]) -> list[Agreement]:
    """The cells that both studies have compared, and whether they agree."""
    theirs, ours = _cells(published), _cells(own)
    found = []
    for key in theirs.keys() & ours.keys():
        a, b = theirs[key], ours[key]
        common = a.keys() & b.keys()
        equal = sum(a[seed] == b[seed] for seed in common)
        found.append(Agreement(key, Estimate.of(list(a.values())), Estimate.of(list(b.values())), equal, len(common)))
    return sorted(found, key=lambda one: (one.key[1], one.key))


def missing(published: Sequence[RunResult], own: Sequence[RunResult]) -> list[str]:
    """Cells that one study alone has a metric of, in words."""
    theirs, ours = _cells(published), _cells(own)
    return [f"{arm}, {budget:,} steps, {backend}" for arm, budget, backend in sorted(theirs.keys() ^ ours.keys())]


def agreement_table(found: Sequence[Agreement]) -> str:
    """The agreement, for people."""
    rows = [["arm", "budget", "backend", "published", "95% interval", "here", "equal seeds", "verdict"]]
    for one in found:
        arm, budget, backend = one.key
        means = [f"{one.published.mean:.6g}", written(one.published.interval), f"{one.own.mean:.6g}"]
        rows.append([arm, f"{budget:,}", backend, *means, f"{one.equal} of {one.common}", one.verdict])
    return aligned(rows)


def _cells(runs: Sequence[RunResult]) -> dict[Key, dict[int, float]]:
    """The metric of each compared run, by cell and seed."""
    cells: dict[Key, dict[int, float]] = {}
    for run in runs:
        if run.stage == "comparison" and run.metric is not None:
            cells.setdefault((run.arm, run.budget, run.backend), {})[run.seed] = run.metric
    return cells
