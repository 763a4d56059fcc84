"""Agreement of a study that was run again with the one that was published.

published runs, own runs --paired by their seeds--> equal to the bit, the same but for what does not matter, or not
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_bench.study.analysis import Cell, Compared, cells_of, pair_of
from lm_bench.study.estimate import written
from lm_bench.study.paired import holm_known
from lm_bench.study.result import RunResult
from lm_bench.study.sensitivity import words
from lm_bench.study.summary import p_value
from lm_core.terminal import aligned

SAME, AGREES, UNSURE, DIFFERS = "bit for bit", "agrees", "not told apart", "differs"


@dataclass(frozen=True)
class Agreement:
    """A cell of both studies: here less published, on the seeds that both have."""

    pair: Compared
    p: float | None
    """Of the paired t test, corrected over the cells that are not equal (Holm)."""
    smallest_effect: float
    alpha: float

    @property
    def equal(self) -> int:
        """Seeds whose metrics are equal to the bit."""
        ours, theirs = self.pair.cell.by_seed, self.pair.against.by_seed
        return sum(theirs.get(seed) == metric for seed, metric in ours.items())

    @property
    def verdict(self) -> str:
        """Whether they agree; `UNSURE` where the interval of the difference has more in it than what matters."""
        pair, ours, theirs = self.pair.paired, self.pair.cell.by_seed, self.pair.against.by_seed
        if pair is None or ours.keys() != theirs.keys():
            return DIFFERS
        if self.equal == len(ours):
            return SAME
        difference, matters = pair.difference, self.smallest_effect
        if difference.interval and max(map(abs, difference.interval)) < matters:
            return AGREES
        large = abs(difference.mean) >= matters
        return DIFFERS if large and (self.p is None or self.p < self.alpha) else UNSURE

    @property
    def why(self) -> str:
        """What there is to say besides: seeds that one of them alone has complete, another point."""
        ours, theirs = self.pair.cell, self.pair.against
        alone = {"here": ours.by_seed.keys() - theirs.by_seed, "there": theirs.by_seed.keys() - ours.by_seed}
        said = [f"seed {', '.join(map(str, sorted(seeds)))} complete {at} only" for at, seeds in alone.items() if seeds]
        if ours.point != theirs.point:
            said.append(f"at {words(ours.point)} instead of {words(theirs.point)}")
        return "; ".join(said)


def agreements(
    arms: Sequence[str],
    published: Sequence[RunResult],
    own: Sequence[RunResult],
    smallest_effect: float,
    alpha: float,
) -> list[Agreement]:
    """The cells of which both studies have a metric, and whether they agree.

    Args:
        arms: of both.
        published: runs of one study.
        own: runs of the other.
        smallest_effect: a mean difference below it is none.
        alpha: probability of calling a faithful repetition different in any cell.
    """
    theirs = {cell.words: cell for cell in cells_of(arms, published) if cell.by_seed}
    pairs = [pair_of(cell, theirs[cell.words]) for cell in cells_of(arms, own) if cell.by_seed and cell.words in theirs]
    unequal = [pair.paired is not None and pair.cell.by_seed != pair.against.by_seed for pair in pairs]
    p_values = holm_known(
        [pair.paired.t_p if pair.paired and differs else None for pair, differs in zip(pairs, unequal, strict=True)]
    )
    return [Agreement(pair, p, smallest_effect, alpha) for pair, p in zip(pairs, p_values, strict=True)]


def missing(arms: Sequence[str], published: Sequence[RunResult], own: Sequence[RunResult]) -> list[str]:
    """Cells that one study alone has a metric of, in words."""
    theirs, ours = ({cell.words for cell in cells_of(arms, runs) if cell.by_seed} for runs in (published, own))
    return sorted(theirs ^ ours)


def agreement_table(found: Sequence[Agreement]) -> str:
    """The agreement, for people."""
    rows = [["cell", "published", "here", "difference", "95%", "p", "equal seeds", "verdict", ""]]
    for one in found:
        difference = one.pair.paired.difference if one.pair.paired else None
        rows.append(
            [
                one.pair.cell.words,
                _mean(one.pair.against),
                _mean(one.pair.cell),
                f"{difference.mean:+.2g}" if difference else "-",
                written(difference.interval if difference else None),
                p_value(one.p),
                f"{one.equal} of {len(one.pair.cell.runs)}",
                one.verdict,
                one.why,
            ]
        )
    return aligned(rows)


def _mean(cell: Cell) -> str:
    return f"{cell.estimate.mean:.6g}" if cell.estimate else "-"
