"""Sampling: the uniforms come from the host, keyed by (seed, position); the filter runs on the device.

So a seed and a prompt give the same text on every backend. The filter, in this order: temperature, top-k, top-p, min-p,
on the probabilities sorted from the largest (ties by id); then the inverse CDF at the uniform. At least one id always
stays. Sources: top-p, Holtzman et al. 2020; min-p, Nguyen et al. 2024.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lm_core.config import Config
from lm_core.rng import generator


class SamplingConfig(Config):
    """How the next id is chosen."""

    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 0 takes the most likely id."""
    top_k: int = Field(0, ge=0)
    """Keep the k most likely ids; 0 keeps all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the fewest ids whose probabilities reach p."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Keep ids at least this fraction as likely as the most likely one."""


class Decoder(Protocol):
    """One sequence being continued, with a KV cache."""

    def prefill(self, ids: list[int]) -> None:
        """Forget what was there and read `ids` (1 <= len(ids) <= seq_len)."""

    def next_id(self, uniform: float, sampling: SamplingConfig) -> int:
        """Draw the next id from the logits at hand by inverse CDF at `uniform`, and read it if there is room."""

    @property
    def room(self) -> int:
        """How many more ids fit before the model's `seq_len` is full."""


def filtered(logits: NDArray[np.floating], config: SamplingConfig) -> NDArray[np.float64]:
    """The reference of the filter: logits [V] -> probabilities [V] in float64, 0 for what is filtered out."""
    logits = np.asarray(logits, dtype=np.float64)
    if config.temperature == 0:
        greedy = np.zeros(len(logits))
        greedy[np.argmax(logits)] = 1.0
        return greedy
    scaled = (logits - logits.max()) / config.temperature
    order = np.argsort(-scaled, kind="stable")
    ranked = np.exp(scaled[order])
    ranked /= ranked.sum()
    keep = np.ones(len(ranked), dtype=bool)
    if config.top_k:
        keep[config.top_k :] = False
    if config.top_p < 1:  # at 1 a rounded sum would cut the tail off
        kept = np.where(keep, ranked, 0.0)
        kept /= kept.sum()
        # What stands before an id decides whether it is needed to reach p, so the first id always stays.
        keep &= np.cumsum(kept) - kept < config.top_p
    keep &= ranked >= config.min_p * ranked[0]
    kept = np.where(keep, ranked, 0.0)
    probabilities = np.empty_like(kept)
    probabilities[order] = kept / kept.sum()
    return probabilities


def uniform(seed: int, position: int) -> float:
    """The uniform in [0, 1) that chooses the id at `position` of the continuation."""
    return float(generator(seed, "sample", position).random())


def generate(
    decoder: Decoder, prompt: Sequence[int], count: int, seq_len: int, seed: int, config: SamplingConfig
) -> Iterator[int]:
    """Yield `count` ids that continue `prompt`, which may not be empty.

    Past the model's `seq_len` the text goes on from the last half of it: the decoder re-reads seq_len // 2 ids once
    every seq_len - seq_len // 2 ids, rather than the whole window for every id.
    """
    window = max(1, seq_len // 2)
    ids = list(prompt)
    decoder.prefill(ids[-seq_len:])
    for position in range(count):
        if position and not decoder.room:
            decoder.prefill(ids[-window:])
        next_id = decoder.next_id(uniform(seed, position), config)
        ids.append(next_id)
        yield next_id
