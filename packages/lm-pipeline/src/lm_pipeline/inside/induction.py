"""Induction: random tokens, and the same again. A head that copies attends from a token of the second half to the one
that came after it in the first.

    r0 r1 r2 ... | r0 r1 r2 ...      from the second r1, a head that has learned induction looks at r2

Random tokens, since the only way to know what follows is to have seen it (Olsson et al. 2022).
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.rng import generator

PERIOD, ROWS = 64, 8
"""Tokens that are repeated, at most, and sequences that are drawn."""


def repeated_sequences(
    vocab_size: int, seq_len: int, seed: int = 0, left_out: Collection[int] = (), rows: int = ROWS
) -> Batch:
    """Sequences of P different random ids and the same again, [rows, 2 P].

    The last target, after the second half, is the first id of both, as if the sequence went on.

    Args:
        vocab_size: ids are drawn below it.
        seq_len: what the model reads at once, at least 2 P.
        seed: what keys the draw.
        left_out: ids that are not drawn, as the end of a text.
        rows: how many sequences.

    Raises:
        UserError: where there is no room for two ids twice.
    """
    known = np.setdiff1d(np.arange(vocab_size), np.array(sorted(left_out), dtype=np.int64))
    period = min(PERIOD, seq_len // 2, len(known))
    if period < 2:
        raise UserError(
            f"checkpoint: a model that reads {seq_len} tokens of {len(known)} at once has no room to repeat"
        )
    draws = [generator(seed, "repeated", row).permutation(known)[:period] for row in range(rows)]
    inputs = np.tile(np.array(draws, dtype=np.int32), 2)
    return Batch(inputs, np.roll(inputs, -1, axis=1))


def induction_scores(weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Mean attention from the second half to the token after the first occurrence: [B, N, 2 P, 2 P] -> [N]."""
    period = weights.shape[-1] // 2
    places = np.arange(period)
    return np.asarray(weights[:, :, period + places, places + 1].mean(axis=(0, 2), dtype=np.float64))
