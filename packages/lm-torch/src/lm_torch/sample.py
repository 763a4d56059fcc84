"""`lm_core.sampling.filtered` on the device, and the draw. Probabilities are float64, as in the reference.

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


def largest(row: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of [V] from the largest on, and their ids; ties by id, which `topk` does not promise."""
    if count >= len(row):
        return row.sort(descending=True, stable=True)
    least = row.topk(count, sorted=False).values.min()
    ids = (row >= least).nonzero().squeeze(1)
    ranked, order = row[ids].sort(descending=True, stable=True)
    return ranked[:count], ids[order[:count]]


def probabilities(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Logits [V] -> (probabilities from the largest on, their ids), without the ids behind top_k.

    The temperature is not 0.
    """
    ranked, order = largest(logits, config.top_k or len(logits))
    ranked = ((ranked.double() - ranked[0]) / config.temperature).softmax(dim=-1)
    keep = ranked >= (1 - ROUNDING) * config.min_p * ranked[0]
    if config.top_p < 1:  # at 1 nothing is cut off
        keep &= ranked.cumsum(dim=-1) - ranked < config.top_p - ROUNDING
    keep[0] = True
    kept = ranked * keep
    return kept / kept.sum(), order


def draw(logits: Tensor, uniforms: Tensor, config: SamplingConfig) -> Tensor:
    """The id [R] at `uniforms` [R] of the inverse CDF of each row of filtered logits [R, V]."""
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    return torch.stack([_draw(row, u, config) for row, u in zip(logits, uniforms, strict=True)])


def _draw(logits: Tensor, uniform: Tensor, config: SamplingConfig) -> Tensor:
    ranked, order = probabilities(logits, config)
    # Rounding may leave the sum below a uniform near 1: then the last id that is kept is meant.
    last = ranked.count_nonzero() - 1
    return order[torch.minimum(torch.searchsorted(ranked.cumsum(dim=-1), uniform, right=True), last)]
