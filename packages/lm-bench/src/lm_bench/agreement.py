"""The proof that both sides train the same model: their losses agree at every step."""

from collections.abc import Sequence
from dataclasses import dataclass

from lm_core.config import Dtype

TOLERANCE_NATS: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 2e-2, "float8": 5e-2}
"""Rounding alone stays far below; bfloat16 keeps 8 bits, and the two sides round in different places."""


class NotSameModelError(AssertionError):
    """The two sides did not train the same model, so their times must not be compared."""


@dataclass(frozen=True)
class Agreement:
    """How far two loss sequences, in nats, are apart."""

    steps: int
    first_loss: float
    last_loss: float
    worst: float
    """Largest difference at any step."""
    tolerance: float


def agreement(
    ours: Sequence[float], bare: Sequence[float], tolerance: float, whose: str = "the bare loop's"
) -> Agreement:
    """Compare two loss sequences, the second of which is `whose`.

    Raises:
        NotSameModelError: when they differ by more than `tolerance` at some step (a NaN differs), naming the first.
    """
    worst = 0.0
    for i, (a, b) in enumerate(zip(ours, bare, strict=True), 1):
        if not abs(a - b) <= tolerance:
            raise NotSameModelError(f"step {i}: our loss is {a:.6f}, {whose} {b:.6f}: not the same model")
        worst = max(worst, abs(a - b))
    return Agreement(len(ours), ours[0], ours[-1], worst, tolerance)
