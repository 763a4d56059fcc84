"""Decoding one sequence with a KV cache: prefill, then one id at a time."""

import torch
from torch import Tensor

from lm_core.sampling import SamplingConfig
from lm_torch.layers import KVCache
from lm_torch.model import LanguageModel


def probabilities(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """`lm_core.sampling.filtered` on the device: logits [V] -> (ranked probabilities [V], their ids [V])."""
    scaled = (logits - logits.max()) / config.temperature
    ranked, order = scaled.sort(descending=True, stable=True)
    ranked = ranked.softmax(dim=-1)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if config.top_k:
        keep[config.top_k :] = False
    if config.top_p < 1:  # at 1 a rounded sum would cut the tail off
        kept = ranked * keep
        kept = kept / kept.sum()
        keep &= kept.cumsum(dim=-1) - kept < config.top_p
    keep &= ranked >= config.min_p * ranked[0]
    kept = ranked * keep
    return kept / kept.sum(), order


def choose(logits: Tensor, uniform: float, config: SamplingConfig) -> int:
    """The id at `uniform` of the inverse CDF of the filtered logits [V]."""
    if config.temperature == 0:
        return int(logits.argmax())
    ranked, order = probabilities(logits, config)
    # Rounding may leave the sum below a uniform near 1: then the last id that is kept is meant.
    last = int(ranked.count_nonzero()) - 1
    rank = min(
        int(torch.searchsorted(ranked.cumsum(dim=-1), torch.tensor(uniform, device=logits.device), right=True)), last
    )
    return int(order[rank])


class TorchDecoder:
    """See `lm_core.sampling.Decoder`."""

    def __init__(self, model: LanguageModel):
        self.model, self.offset = model, 0
        device = model.embed.weight.device
        self.caches = [
            KVCache(1, model.config.seq_len, model.config, model.dtype, device) for _ in range(model.config.n_layers)
        ]

    @property
    def room(self) -> int:
        """How many more ids fit."""
        return self.model.config.seq_len - self.offset

    def prefill(self, ids: list[int]) -> None:
        """Forget what was there and read `ids`."""
        self.offset = 0
        self._read(ids)

    @torch.no_grad()
    def _read(self, ids: list[int]) -> None:
        batch = torch.tensor([ids], device=self.model.embed.weight.device)
        self.logits = self.model(batch, caches=self.caches, offset=self.offset)[0, -1]
        self.offset += len(ids)

    def next_id(self, uniform: float, sampling: SamplingConfig) -> int:
        """Draw the next id, and read it if there is room."""
        chosen = choose(self.logits, uniform, sampling)
        if self.room:
            self._read([chosen])
        return chosen
