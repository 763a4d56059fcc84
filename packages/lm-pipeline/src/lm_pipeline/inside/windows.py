"""Windows of a text, and batches of them: consecutive, of one length, each read as one document."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.data.batches import Batch
from lm_core.errors import UserError

TOKENS = 4096
"""Tokens of a batch at most, where a window is not longer."""


def windows(ids: NDArray[np.integer[Any]], length: int, most: int) -> list[Batch]:
    """Consecutive windows of `length` ids, or of all where they are fewer, in batches.

    Args:
        ids: of a text, [tokens].
        length: what the model reads at once.
        most: tokens to read at most; one window is read even where it is longer.

    Raises:
        UserError: for a text of fewer than three tokens.
    """
    length = min(length, len(ids) - 1)
    if length < 2:
        raise UserError(f"text: it has {len(ids)} tokens, and a study needs 3 at least: give a longer one")
    count = max(1, min(len(ids) - 1, most) // length)
    given = ids.astype(np.int32)
    inputs, targets = (given[i : i + count * length].reshape(count, length) for i in (0, 1))
    rows = max(1, TOKENS // length)
    return [Batch(inputs[i : i + rows], targets[i : i + rows]) for i in range(0, count, rows)]


def first_tokens(batches: Sequence[Batch], most: int) -> list[Batch]:
    """The first rows of batches, `most` tokens of them at most, but one row at least."""
    rows = max(1, most // batches[0].inputs.shape[1])
    taken: list[Batch] = []
    for batch in batches:
        if rows > 0:
            taken.append(Batch(batch.inputs[:rows], batch.targets[:rows]))
        rows -= len(batch.inputs)
    return taken
