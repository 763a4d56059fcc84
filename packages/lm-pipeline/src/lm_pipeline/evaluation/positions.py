"""Loss by position within the window, or the document: how much a model makes of the tokens before a target."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Positions:
    """Adds up nats by the number of tokens that a target is predicted from, 1 to `length`."""

    def __init__(self, length: int) -> None:
        self.nats, self.targets = np.zeros(length), np.zeros(length, np.int64)

    def add(self, nats: NDArray[np.floating[Any]], context: NDArray[np.integer[Any]]) -> None:
        """Take targets: their nats, and how many tokens each is predicted from; both [targets]."""
        length = len(self.nats)
        self.nats += np.bincount(context - 1, nats, length)
        self.targets += np.bincount(context - 1, minlength=length)

    @property
    def loss_nats(self) -> NDArray[np.float64]:
        """Mean nats at each position, [length]; not a number where no target counts."""
        with np.errstate(invalid="ignore"):
            return self.nats / self.targets

    def table(self) -> list[dict[str, float]]:
        """Mean nats of the positions 1, 2-3, 4-7, 8-15, ... that have targets."""
        rows, first = [], 1
        while first <= len(self.nats):
            last = min(2 * first - 1, len(self.nats))
            targets = int(self.targets[first - 1 : last].sum())
            if targets:
                nats = self.nats[first - 1 : last].sum() / targets
                rows.append({"first": first, "last": last, "targets": targets, "loss_nats": float(nats)})
            first = last + 1
        return rows
