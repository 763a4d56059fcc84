"""The logit lens: the loss and the most likely token of each layer, as if the final norm and the head came after it
(nostalgebraist 2020)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class LensSums:
    """What is added up over the tokens of a corpus, layer by layer."""

    def __init__(self, n_layers: int) -> None:
        self.nats, self.agreements = np.zeros(n_layers), np.zeros(n_layers)
        self.tokens = 0

    def add(self, nats: NDArray[np.floating[Any]], ids: NDArray[np.integer[Any]]) -> None:
        """Add a batch: the losses of its targets and the most likely ids, [L, B, T] each."""
        self.nats += nats.sum(axis=(1, 2), dtype=np.float64)
        self.agreements += (ids == ids[-1]).sum(axis=(1, 2))
        self.tokens += ids[0].size

    def results(self) -> dict[str, NDArray[np.float64]]:
        """Means over the tokens, [L]: the loss, and the share at which a layer's first choice is the model's."""
        return {"lens_loss_nats": self.nats / self.tokens, "lens_agreement": self.agreements / self.tokens}
