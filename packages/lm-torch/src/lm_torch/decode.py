"""Decoding with a KV cache: prefill a row, then one id of every row at a time.

Axes: R rows, V vocabulary.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from lm_core.config import SamplingConfig, WeightsDtype
from lm_torch import fused, onednn, product_choice
from lm_torch.inference import InferenceModel, KVCache
from lm_torch.model import LanguageModel
from lm_torch.sample import draw, penalized


class TorchDecoder:
    """See `lm_core.sampling.Decoder`.

    While all rows are equally long, a step writes and reads slices of the cache; else the whole cache, masked.
    """

    ids_per_call = 1

    def __init__(
        self,
        model: LanguageModel,
        rows: int = 1,
        vocab_size: int | None = None,
        weights_dtype: WeightsDtype = "same",
    ):
        c = model.config
        self.vocab_size, self.seq_len = vocab_size or c.vocab_size, c.seq_len
        self.model = InferenceModel(model, self.vocab_size, weights_dtype)
        self.device = model.embed.weight.device
        measured = self.device.type == "cpu" and model.kernels is fused and model.dtype == torch.float32
        self.products = product_choice.choose(c) if measured else onednn.chosen()
        """Kinds of products that go to oneDNN."""
        shape = (rows, c.kv_heads, c.seq_len, c.head_dim)
        self.caches = [
            KVCache(*(torch.zeros(shape, dtype=model.dtype, device=self.device) for _ in "kv"))
            for _ in range(c.n_layers)
        ]
        self.lengths = [0] * rows
        self.logits = torch.zeros(rows, self.vocab_size, device=self.device)
        self.last: tuple[Tensor, Tensor] | None = None
        """The logits [R, V] of the last draw, and the ids [R]."""
        self.seen: Tensor | None = None
        """[R, V], what each text holds; None until a repetition penalty asks for it."""

    def room(self, row: int) -> int:
        """How many more ids fit into the row."""
        return self.seq_len - self.lengths[row]

    @torch.inference_mode()
    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int] = ()) -> None:
        """Forget what was in `row` and read `ids`."""
        one = slice(row, row + 1)
        caches = [cache.rows(one) for cache in self.caches]
        with onednn.using(self.products):
            self.logits[row] = self.model.logits(self._ids([list(ids)]), caches, 0)[0]
        self.lengths[row] = len(ids)
        if seen:
            if self.seen is None:
                self.seen = torch.zeros(self.logits.shape, dtype=torch.bool, device=self.device)
            self.seen[row] = False
            self.seen[row, [i for i in seen if i < self.vocab_size]] = True

    @torch.inference_mode()
    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        """Draw the next ids of every row, and read each where there is room."""
        return [self._next_id(of_rows, sampling) for of_rows in uniforms]

    def _next_id(self, uniforms: Sequence[float], sampling: SamplingConfig) -> list[int]:
        numbers = torch.tensor(uniforms, dtype=torch.float64, device=self.device)
        chosen = chosen_ids(self.logits, numbers, sampling, self.seen)
        self.last = self.logits, chosen
        self._read(chosen)
        return chosen.tolist()

    @torch.inference_mode()
    def last_nats(self) -> NDArray[np.float32]:
        """Nats of the ids drawn last, [R]."""
        assert self.last, "nothing was drawn, or by a CUDA graph"
        logits, chosen = self.last
        found: NDArray[np.float32] = cross_entropy(logits, chosen, reduction="none").cpu().numpy()
        return found

    def _read(self, chosen: Tensor) -> None:
        """One more id of every row; where there is no room it lands on the last one, and a prefill is due."""
        last = self.seq_len - 1
        offsets = [min(length, last) for length in self.lengths]
        if all(length > last for length in self.lengths):
            return
        offset = offsets[0] if len(set(offsets)) == 1 else self._ids(offsets)
        narrow = self.model.dtype == torch.bfloat16 and self.device.type == "cpu" and len(chosen) == 1
        with onednn.using(self.products), onednn.off() if narrow else nullcontext():
            self.logits = self.model.logits(chosen[:, None], self.caches, offset)
        self.lengths = [min(length + 1, last + 1) for length in self.lengths]

    def _ids(self, ids: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(ids, device=self.device)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        kept = list(rows)
        self.caches = [cache.rows(kept) for cache in self.caches]
        self.lengths = [self.lengths[row] for row in kept]
        self.logits = self.logits[kept]
        self.seen = None if self.seen is None else self.seen[kept]


def chosen_ids(logits: Tensor, uniforms: Tensor, sampling: SamplingConfig, seen: Tensor | None) -> Tensor:
    """The id [R] drawn from each row of logits [R, V] at `uniforms` [R]; `seen` [R, V], if any, takes it in."""
    if seen is not None and sampling.repetition_penalty != 1:
        logits = penalized(logits, seen, sampling.repetition_penalty)
    chosen = draw(logits, uniforms, sampling)
    if seen is not None:
        seen.scatter_(1, chosen[:, None], True)
    return chosen
