"""How far the probability that a model gives its likeliest token can be taken at its word.

Targets are put into bins of equal width by that probability. In each, the share of targets that are the likeliest token
should be the mean probability; the expected calibration error is the mean difference, weighted by the targets of a bin
(Guo et al. 2017, equation 3, https://arxiv.org/abs/1706.04599).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""As in the paper."""


class Calibration:
    """Adds up confidences and hits by bin. Bin b has the confidences in (b / BINS, (b + 1) / BINS]."""

    def __init__(self) -> None:
        self.targets, self.confidence, self.right = (np.zeros(BINS) for _ in range(3))

    def add(self, confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> None:
        """Take the targets: probability of the likeliest token, and whether the target is that; each [targets]."""
        wide = confidence.astype(np.float64)
        place = np.clip(np.ceil(wide * BINS).astype(np.int64) - 1, 0, BINS - 1)
        self.targets += np.bincount(place, minlength=BINS)
        self.confidence += np.bincount(place, wide, BINS)
        self.right += np.bincount(place, right, BINS)

    @property
    def error(self) -> float:
        """The expected calibration error, 0 to 1."""
        return float(np.abs(self.right - self.confidence).sum() / self.targets.sum())

    def table(self) -> list[dict[str, float]]:
        """The bins that have targets: limits, targets, mean confidence, share that is right."""
        return [
            {
                "above": b / BINS,
                "up_to": (b + 1) / BINS,
                "targets": int(self.targets[b]),
                "confidence": self.confidence[b] / self.targets[b],
                "accuracy": self.right[b] / self.targets[b],
            }
            for b in np.flatnonzero(self.targets).tolist()
        ]
