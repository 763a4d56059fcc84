"""A model read block by block: attention weights, residual stream, and what the head makes of it.

    ids [B, T] --embedded--> x --block--> x --block--> ...      each block once, by the model's own operations
                             |            '--norm, head--> losses and most likely ids, some tokens at a time
                             '--attn_norm, q_proj, k_proj, rotate--> attention weights of some heads, spelled out

Axes: B batch, T time, D model, N heads, K kv heads, H head, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from lm_core.backend import AttentionTotals
from lm_mlx import scratch
from lm_mlx.attention import packed
from lm_mlx.attention_totals import attention_totals
from lm_mlx.model import Block, LanguageModel

LOGITS = 1 << 24
"""How many logits are held at a time: 64 MiB of them."""


@dataclass(frozen=True)
class TappedLayer:
    """See `lm_core.backend.TappedLayer`."""

    model: LanguageModel
    block: Block
    x: mx.array
    """What the block reads, [B, T, D]."""
    y: mx.array
    """What it gives."""
    positions: mx.array | None
    mask: mx.array | None

    def attention(self, heads: slice = slice(None)) -> NDArray[np.float32]:
        """Weights of some heads, [B, heads, T, T]."""
        q, k = self._queries_and_keys
        weights = scratch.attention_weights(q[:, heads], k[:, heads], self.mask, self.mask is None)
        return np.array(weights.astype(mx.float32))

    def attention_totals(self) -> AttentionTotals:
        """Of every head, see `lm_mlx.attention_totals`."""
        return attention_totals(*self._queries_and_keys, self.mask)

    @cached_property
    def _queries_and_keys(self) -> tuple[mx.array, mx.array]:
        """Of every query head, [B, N, T, H] each: made once, however many heads are asked for at a time."""
        q, k, _ = self.block.attn.queries_keys_values(self.block.attn_norm(self.x), self.positions)
        k = scratch.repeated(k, q.shape[-3])
        mx.eval(q, k)
        return q, k

    def residual(self) -> NDArray[np.float32]:
        """The stream after the block, [B, T, D]."""
        return np.array(self.y.astype(mx.float32))

    def lens(self, targets: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Nats of each target and the most likely ids, [B, T] each, by the final norm and the head."""
        x, given = self.model.norm(self.y).flatten(0, 1), mx.array(targets).flatten()
        size = max(1, LOGITS // self.model.config.vocab_size)
        nats, ids = [], []
        for first in range(0, len(x), size):
            logits = self.model.head(x[first : first + size])
            nats.append(scratch.token_losses(logits, given[first : first + size]).astype(mx.float32))
            ids.append(logits.argmax(axis=-1).astype(mx.int32))
            mx.eval(nats[-1], ids[-1])
        return np.array(mx.concatenate(nats).reshape(targets.shape)), np.array(
            mx.concatenate(ids).reshape(targets.shape)
        )


def tapped_layers(model: LanguageModel, ids: mx.array, starts: mx.array | None) -> Iterator[TappedLayer]:
    """The blocks of a model that reads ids [B, T]; for `starts` see `LanguageModel.__call__`."""
    positions, mask = (None, None) if starts is None else packed(starts)
    x = model.embedded(ids, positions=positions)
    for block in model.blocks:
        y = block(x, positions=positions, mask=mask)
        mx.eval(y)
        yield TappedLayer(model, block, x, y, positions, mask)
        x = y
