"""What a model gives texts that follow a context: the step below multiple choice, last words and log-likelihoods.

context, continuation --cut at the context's start--> rows, padded at their end --marks--> nats, and whether greedy
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lm_core.backend import Scorer
from lm_core.data.batches import Batch
from lm_core.errors import UserError

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a context and of what follows it, one at least of each."""


@dataclass(frozen=True)
class Scored:
    """A continuation."""

    nats: float
    """-ln p(continuation | context), summed over its tokens."""
    greedy: bool
    """Whether each of its tokens is the likeliest at its place, alone."""


def score_continuations(scorer: Scorer, pairs: Sequence[Pair], seq_len: int, batch_size: int = 16) -> list[Scored]:
    """Score each pair, in their order; of a context that is too long, the end is read.

    Args:
        scorer: of the model.
        pairs: contexts and continuations.
        seq_len: the model's context, in tokens.
        batch_size: pairs at a time, which are grouped by length.

    Raises:
        UserError: for a pair without a context or continuation, or whose continuation is longer than the context of
            the model.
    """
    for number, (context, continuation) in enumerate(pairs, 1):
        if not context or not 0 < len(continuation) <= seq_len:
            raise UserError(
                f"pair {number} has {len(context):,} tokens of context and {len(continuation):,} to score: give one at"
                f" least of each, and at most {seq_len:,} to score, the model's context"
            )
    scored: dict[int, Scored] = {}
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        scored.update(zip(group, _scores(scorer, [pairs[i] for i in group], seq_len), strict=True))
    return [scored[i] for i in range(len(pairs))]


def _scores(scorer: Scorer, pairs: Sequence[Pair], seq_len: int) -> Iterator[Scored]:
    rows = [[*context, *continuation][-seq_len - 1 :] for context, continuation in pairs]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = row  # the padding behind it is seen by no target of the row
    marks = scorer.marks(Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])))
    for number, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
        inside = slice(len(row) - 1 - len(continuation), len(row) - 1)
        nats, rank = marks.nats[number, inside], marks.rank[number, inside]
        yield Scored(float(nats.sum(dtype=np.float64)), not rank.any())
