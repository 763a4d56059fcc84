"""The validation loss over many batches, and what losses are called in bits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lm_core.backend import Trainer
from lm_core.data.batches import Batch
from lm_core.world import ALONE, World

_LARGEST_EXPONENT = 700.0
"""The exponential of more has no float."""
BytesOf = Callable[[Batch], int]
"""UTF-8 bytes of the text that a batch's targets stand for."""


@dataclass(frozen=True)
class Score:
    """A loss over some tokens."""

    loss_nats: float
    """Mean over the tokens."""
    tokens: int
    text_bytes: int = 0
    """UTF-8 bytes of the tokens' text; 0 when they are not known or the text is empty."""

    @property
    def bits(self) -> float:
        """Mean over the tokens, in bits."""
        return self.loss_nats / math.log(2)

    def bits_per_byte(self) -> dict[str, float]:
        """The record's field: summed nats / ln 2 / summed bytes. Empty where the bytes are not known."""
        if not self.text_bytes:
            return {}
        return {"bits_per_byte": self.loss_nats * self.tokens / math.log(2) / self.text_bytes}

    def perplexity(self) -> float:
        """e to the loss of a token."""
        return math.exp(min(self.loss_nats, _LARGEST_EXPONENT))


def evaluate(
    trainer: Trainer, batches: Sequence[Batch], bytes_of: BytesOf | None = None, world: World = ALONE
) -> Score:
    """The mean loss over the tokens of all batches; the device is waited for only after the last one.

    Weights of batches are to be 1 on average over all of them (`mean_one`), and not over each. Of several ranks each
    takes every so-manieth batch, whole, so the result is the same to the last bit for any number of them.
    """
    losses, tokens, text_bytes = [], [], 0
    for first in range(0, len(batches), world.size):
        # What is left over at the end is evaluated for nothing by who has none: sharded weights need all ranks.
        batch, is_due = batches[min(first + world.rank, len(batches) - 1)], first + world.rank < len(batches)
        loss = trainer.evaluate(batch)
        if is_due:
            losses.append(loss)
            tokens.append(batch.tokens)
            text_bytes += bytes_of(batch) if bytes_of else 0
    every = world.of_all(([float(loss) for loss in losses], tokens, text_bytes))
    measured = [
        (found[0][i], found[1][i]) for i in range(len(every[0][0])) for found in every if i < len(found[0])
    ]  # in the order of the batches
    total, text_bytes = sum(count for _, count in measured), sum(found[2] for found in every)
    # Shares, not sums: the loss of a single batch then stays what it is, to the last bit.
    mean = sum(loss * (count / total) for loss, count in measured)
    return Score(mean, total, text_bytes)
