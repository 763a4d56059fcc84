"""Decoding one sequence with a KV cache: prefill, then one id at a time."""

from typing import cast

import mlx.core as mx

from lm_core.sampling import SamplingConfig
from lm_mlx.layers import KVCache
from lm_mlx.model import LanguageModel


def probabilities(logits: mx.array, config: SamplingConfig) -> tuple[mx.array, mx.array]:
    """`lm_core.sampling.filtered` on the device: logits [V] -> (ranked probabilities [V], their ids [V])."""
    scaled = (logits - logits.max()) / config.temperature
    order = mx.argsort(-scaled)
    ranked = mx.softmax(scaled[order])
    keep = mx.ones_like(ranked).astype(mx.bool_)
    if config.top_k:
        keep = mx.arange(len(ranked)) < config.top_k
    if config.top_p < 1:  # at 1 a rounded sum would cut the tail off
        kept = ranked * keep
        kept = kept / kept.sum()
        keep = keep & (mx.cumsum(kept) - kept < config.top_p)
    keep = keep & (ranked >= config.min_p * ranked[0])
    kept = ranked * keep
    return kept / kept.sum(), order


def choose(logits: mx.array, uniform: float, config: SamplingConfig) -> int:
    """The id at `uniform` of the inverse CDF of the filtered logits [V]."""
    if config.temperature == 0:
        return cast(int, mx.argmax(logits).item())
    ranked, order = probabilities(logits, config)
    # Rounding may leave the sum below a uniform near 1: then the last id that is kept is meant.
    last = (ranked > 0).sum() - 1
    rank = mx.minimum((mx.cumsum(ranked) <= uniform).sum(), last)
    return cast(int, order[rank].item())


class MlxDecoder:
    """See `lm_core.sampling.Decoder`."""

    def __init__(self, model: LanguageModel):
        self.model, self.offset = model, 0
        config = model.config
        self.caches = [KVCache(1, config.seq_len, config, model.dtype) for _ in range(config.n_layers)]

    @property
    def room(self) -> int:
        """How many more ids fit."""
        return int(self.model.config.seq_len - self.offset)

    def prefill(self, ids: list[int]) -> None:
        """Forget what was there and read `ids`."""
        self.offset = 0
        self._read(ids)

    def _read(self, ids: list[int]) -> None:
        self.logits = self.model(mx.array([ids]), caches=self.caches, offset=self.offset)[0, -1]
        self.offset += len(ids)

    def next_id(self, uniform: float, sampling: SamplingConfig) -> int:
        """Draw the next id, and read it if there is room."""
        chosen = choose(self.logits, uniform, sampling)
        if self.room:
            self._read([chosen])
        return chosen
