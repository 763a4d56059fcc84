"""`lm_core.sampling.filtered` on the device, and the draw. Probabilities are float64, as in the reference.

No shape depends on the data and nothing waits for the host, so that a CUDA graph can hold all of it.

Axes: R rows, V vocabulary.
"""

import torch
from torch import Tensor

from lm_core.config import SamplingConfig
from lm_core.sampling import ROUNDING


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [R, V] with those of the ids that are `seen`, bool [R, V], made smaller, in float64."""
    wide = logits.double()
    return torch.where(seen, torch.where(wide > 0, wide / penalty, wide * penalty), wide)


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of [R, V] from the largest on, and their ids; ties by id, which `topk` does not
    promise."""
    if count >= logits.shape[1]:
        return logits.sort(dim=-1, descending=True, stable=True)
    least = logits.topk(count, sorted=False).values.amin(dim=-1, keepdim=True)
    above, tied = logits > least, logits == least
    chosen = above | (tied & (tied.cumsum(dim=-1) <= count - above.sum(dim=-1, keepdim=True)))
    # The places of the chosen in the order of their ids; all others land on one place more, which is cut off.
    places = torch.where(chosen, chosen.cumsum(dim=-1) - 1, count)
    every = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    ids = every.new_zeros(len(logits), count + 1).scatter_(1, places, every)[:, :count]
    ranked, order = logits.gather(1, ids).sort(dim=-1, descending=True, stable=True)
    return ranked, ids.gather(1, order)


def probabilities(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Logits [R, V] -> (probabilities from the largest on, their ids), without the ids behind top_k.

    The temperature is not 0.
    """
    ranked, order = largest(logits, config.top_k or logits.shape[1])
    ranked = ((ranked.double() - ranked[:, :1]) / config.temperature).softmax(dim=-1)
    keep = ranked >= (1 - ROUNDING) * config.min_p * ranked[:, :1]
    if config.top_p < 1:  # at 1 nothing is cut off
        keep &= ranked.cumsum(dim=-1) - ranked < config.top_p - ROUNDING
    keep[:, 0].fill_(True)
    kept = ranked * keep
    return kept / kept.sum(dim=-1, keepdim=True), order


def draw(logits: Tensor, uniforms: Tensor, config: SamplingConfig) -> Tensor:
    """The id [R] at `uniforms` [R] of the inverse CDF of each row of filtered logits [R, V]."""
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    ranked, order = probabilities(logits, config)
    # Rounding may leave the sum below a uniform near 1: then the last id that is kept is meant.
    last = ranked.count_nonzero(dim=-1)[:, None] - 1
    rank = torch.searchsorted(ranked.cumsum(dim=-1), uniforms[:, None], right=True)
    return order.gather(1, torch.minimum(rank, last))[:, 0]
