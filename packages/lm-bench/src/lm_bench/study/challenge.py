"""Agreement of a study that was run again with the one that was published.

published runs, own runs --paired by their seeds--> equal to the bit, or differences that are none beyond chance
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_bench.study.estimate import written
from lm_bench.study.paired import Paired, holm_known, paired
from lm_bench.study.result import RunResult
from lm_bench.study.sensitivity import words
from lm_bench.study.summary import p_value
from lm_core.terminal import aligned

Key = tuple[str, int, str]
"""Arm, budget and backend."""
Cells = dict[Key, dict[int, RunResult]]
"""The compared runs of each, by seed."""


@dataclass(frozen=True)
class Agreement:
    """A cell of both studies, and whether they agree."""

    key: Key
    means: tuple[float, float]
    """Published, and here."""
    paired: Paired | None
    """Here less published, on the seeds that both have; None where they have none in common."""
    p: float | None
    """Of the paired t test, corrected over all cells (Holm)."""
    equal: int
    """Seeds whose metrics are equal to the bit."""
    common: int
    """Seeds that both have."""
    verdict: str
    """In words."""
    agrees: bool


def agreements(
    published: Sequence[RunResult], own: Sequence[RunResult], smallest_effect: float, alpha: float
) -> list[Agreement]:
    """The cells that both studies have compared, and whether they agree.

    Args:
        published: runs of one study.
        own: runs of the other.
        smallest_effect: a mean difference below it is none.
        alpha: probability of calling a faithful repetition different in any cell.
    """
    theirs, ours = _cells(published), _cells(own)
    keys = sorted((key for key in theirs.keys() & ours.keys() if _has(theirs[key]) and _has(ours[key])), key=_order)
    pairs = [_paired(theirs[key], ours[key]) for key in keys]
    corrected = holm_known([pair.t_p if pair else None for pair in pairs])
    return [
        _agreement(key, theirs[key], ours[key], pair, p, smallest_effect, alpha)
        for key, pair, p in zip(keys, pairs, corrected, strict=True)
    ]


def missing(published: Sequence[RunResult], own: Sequence[RunResult]) -> list[str]:
    """Cells that one study alone has a metric of, in words."""
    theirs, ours = ({key for key, runs in _cells(study).items() if _has(runs)} for study in (published, own))
    return [f"{arm}, {budget:,} steps, {backend}" for arm, budget, backend in sorted(theirs ^ ours)]


def agreement_table(found: Sequence[Agreement]) -> str:
    """The agreement, for people."""
    rows = [["arm", "budget", "backend", "published", "here", "difference", "95%", "p", "equal seeds", "verdict"]]
    for one in found:
        arm, budget, backend = one.key
        difference = one.paired.difference if one.paired else None
        rows.append(
            [
                arm,
                f"{budget:,}",
                backend,
                *(f"{mean:.6g}" for mean in one.means),
                f"{difference.mean:+.2g}" if difference else "-",
                written(difference.interval if difference else None),
                p_value(one.p),
                f"{one.equal} of {one.common}",
                one.verdict,
            ]
        )
    return aligned(rows)


def _agreement(
    key: Key,
    theirs: dict[int, RunResult],
    ours: dict[int, RunResult],
    pair: Paired | None,
    p: float | None,
    smallest_effect: float,
    alpha: float,
) -> Agreement:
    a, b = _metrics(theirs), _metrics(ours)
    common = a.keys() & b.keys()
    equal = sum(a[seed] == b[seed] for seed in common)
    large = pair is None or abs(pair.difference.mean) >= smallest_effect
    before, here = (next(iter(runs.values())).point for runs in (theirs, ours))
    agrees = False
    if a.keys() != b.keys():
        verdict = f"differs: {_complete(ours)} complete here, {_complete(theirs)} there"
    elif large and (p is None or p < alpha):
        verdict = "differs"
    else:
        agrees = True
        verdict = "bit for bit" if equal == len(common) else "agrees"
    if before != here:
        verdict += f", at {words(here)} instead of {words(before)}"
    means = sum(a.values()) / len(a), sum(b.values()) / len(b)
    return Agreement(key, means, pair, p, equal, len(common), verdict, agrees)


def _paired(theirs: dict[int, RunResult], ours: dict[int, RunResult]) -> Paired | None:
    a, b = _metrics(theirs), _metrics(ours)
    differences = [b[seed] - a[seed] for seed in a if seed in b]
    return paired(differences) if differences else None


def _cells(runs: Sequence[RunResult]) -> Cells:
    cells: Cells = {}
    for run in runs:
        if run.stage == "comparison":
            cells.setdefault((run.arm, run.budget, run.backend), {})[run.seed] = run
    return cells


def _metrics(runs: dict[int, RunResult]) -> dict[int, float]:
    return {seed: run.metric for seed, run in runs.items() if run.metric is not None}


def _has(runs: dict[int, RunResult]) -> bool:
    return bool(_metrics(runs))


def _complete(runs: dict[int, RunResult]) -> str:
    return f"{len(_metrics(runs))} of {len(runs)}"


def _order(key: Key) -> tuple[int, Key]:
    return key[1], key
