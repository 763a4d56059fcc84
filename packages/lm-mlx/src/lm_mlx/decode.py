"""Decoding with a KV cache: prefill a row, then one id of every row at a time.

Axes: R rows, V vocabulary.
"""

from collections.abc import Collection, Sequence

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from lm_core.config import SamplingConfig, WeightsDtype
from lm_mlx.inference import InferenceModel, KVCache
from lm_mlx.model import LanguageModel
from lm_mlx.sample import draw, penalized, wide_type

IDS_PER_CALL = 8
"""On a GPU: the host prepares the next steps while the device is at the first."""


class MlxDecoder:
    """See `lm_core.sampling.Decoder`.

    While all rows are equally long, a step writes and reads slices of the cache; else the whole cache, masked.
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: int = 1,
        vocab_size: int | None = None,
        weights_dtype: WeightsDtype = "same",
    ):
        self.vocab_size, self.seq_len = vocab_size or model.config.vocab_size, model.config.seq_len
        self.model = InferenceModel(model, self.vocab_size, weights_dtype)
        self.caches = self._empty(rows)
        self.lengths = [0] * rows
        self.logits = mx.zeros((rows, self.vocab_size))
        self.last: tuple[mx.array, mx.array] | None = None
        """The logits [R, V] of the last draw, and the ids [R]."""
        self.seen: mx.array | None = None
        """[R, V], what each text holds; None until a repetition penalty asks for it."""
        self.ids_per_call = IDS_PER_CALL if mx.default_device() == mx.Device(mx.gpu) else 1

    def _empty(self, rows: int) -> list[KVCache]:
        c = self.model.config
        shape = (rows, c.kv_heads, c.seq_len, c.head_dim)
        return [KVCache(*(mx.zeros(shape, self.model.dtype) for _ in "kv")) for _ in range(c.n_layers)]

    def room(self, row: int) -> int:
        """How many more ids fit into the row."""
        return self.seq_len - self.lengths[row]

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int] = ()) -> None:
        """Forget what was in `row` and read `ids`."""
        one = self._empty(1)
        self.logits[row] = self.model.logits(mx.array([list(ids)]), one, 0)[0]
        self.lengths[row] = len(ids)
        for cache, of_row in zip(self.caches, one, strict=True):
            cache.k[row], cache.v[row] = of_row.k[0], of_row.v[0]
        if seen:
            if self.seen is None:
                self.seen = mx.zeros(self.logits.shape, dtype=mx.bool_)
            self.seen[row] = False
            self.seen[row, mx.array([i for i in seen if i < self.vocab_size])] = True

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        """Draw the next ids of every row, and read each where there is room."""
        chosen = [self._next_id(of_rows, sampling) for of_rows in uniforms]
        return [[int(i) for i in np.array(ids)] for ids in chosen]

    def _next_id(self, uniforms: Sequence[float], sampling: SamplingConfig) -> mx.array:
        logits = self.logits
        if self.seen is not None and sampling.repetition_penalty != 1:
            logits = penalized(logits, self.seen, sampling.repetition_penalty)
        chosen = draw(logits, mx.array(list(uniforms), wide_type()), sampling)
        if self.seen is not None:
            self.seen[mx.arange(len(chosen)), chosen] = True
        self.last = self.logits, chosen
        self._read(chosen)
        mx.async_eval(chosen, self.logits)
        return chosen

    def last_nats(self) -> NDArray[np.float32]:
        """Nats of the ids drawn last, [R]."""
        assert self.last, "nothing was drawn"
        return np.array(nn.losses.cross_entropy(*self.last))

    def _read(self, chosen: mx.array) -> None:
        """One more id of every row; where there is no room it lands on the last one, and a prefill is due."""
        last = self.seq_len - 1
        offsets = [min(length, last) for length in self.lengths]
        if all(length > last for length in self.lengths):
            return
        offset = offsets[0] if len(set(offsets)) == 1 else mx.array(offsets)
        self.logits = self.model.logits(chosen[:, None], self.caches, offset)
        self.lengths = [min(length + 1, last + 1) for length in self.lengths]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        kept = mx.array(list(rows))
        self.caches = [cache.rows(kept) for cache in self.caches]
        self.lengths = [self.lengths[row] for row in rows]
        self.logits = self.logits[kept]
        self.seen = None if self.seen is None else self.seen[kept]
