"""A model read block by block: attention weights, residual stream, and what the head makes of it.

    ids [B, T] --embedded--> x --block--> x --block--> ...      each block once, by the model's own operations
                             |            '--norm, head--> losses and most likely ids, some tokens at a time
                             '--attn_norm, q_proj, k_proj, rotate--> attention weights of some heads, spelled out

Axes: B batch, T time, D model, N heads, K kv heads, H head, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.backend import AttentionTotals
from lm_torch import scratch
from lm_torch.attention import packed
from lm_torch.attention_totals import attention_totals
from lm_torch.fitting import fitting
from lm_torch.model import Block, LanguageModel

LOGITS = 1 << 24
"""How many logits are held at a time: 64 MiB of them."""
Numerics = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class TappedLayer:
    """See `lm_core.backend.TappedLayer`."""

    model: LanguageModel
    block: Block
    x: Tensor
    """What the block reads, [B, T, D]."""
    y: Tensor
    """What it gives."""
    positions: Tensor | None
    mask: Tensor | None
    numerics: Numerics

    def attention(self, heads: slice = slice(None)) -> NDArray[np.float32]:
        """Weights of some heads, [B, heads, T, T]."""
        with _reading(self.numerics):
            q, k = self._queries_and_keys
            weights = scratch.attention_weights(q[:, heads], k[:, heads], self.mask, self.mask is None)
            return _numpy(weights.float())

    def attention_totals(self) -> AttentionTotals:
        """Of every head, see `lm_torch.attention_totals`."""
        with _reading(self.numerics):
            return attention_totals(*self._queries_and_keys, self.mask)

    @cached_property
    def _queries_and_keys(self) -> tuple[Tensor, Tensor]:
        """Of every query head, [B, N, T, H] each: made once, however many heads are asked for at a time."""
        q, k, _ = self.block.attn.queries_keys_values(self.block.attn_norm(self.x), self.positions)
        return q, scratch.repeated(k, q.shape[-3])

    def residual(self) -> NDArray[np.float32]:
        """The stream after the block, [B, T, D]."""
        return _numpy(self.y.float())

    def lens(self, targets: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Nats of each target and the most likely ids, [B, T] each, by the final norm and the head."""
        with _reading(self.numerics):
            x = self.model.norm(self.y).flatten(0, 1)
            given = torch.from_numpy(np.ascontiguousarray(targets)).to(x.device).long().flatten()
            size = max(1, LOGITS // self.model.config.vocab_size)
            nats, ids = [], []
            for some, wanted in zip(x.split(size), given.split(size), strict=True):
                logits = self.model.head(some)
                nats.append(scratch.token_losses(logits, wanted).float())
                ids.append(logits.argmax(dim=-1).int())
            return _numpy(torch.cat(nats).view(targets.shape)), _numpy(torch.cat(ids).view(targets.shape))


def tapped_layers(
    model: LanguageModel, ids: Tensor, starts: Tensor | None, numerics: Numerics
) -> Iterator[TappedLayer]:
    """The blocks of a model that reads ids [B, T]; for `starts` see `LanguageModel.forward`."""
    with _reading(numerics):
        positions, mask = (None, None) if starts is None else packed(starts)
        x = model.embedded(ids, positions=positions)
    for block in model.blocks:
        with _reading(numerics):
            y = block(x, positions=positions, mask=mask)
        yield TappedLayer(model, cast(Block, block), x, y, positions, mask, numerics)
        x = y


@contextmanager
def _reading(numerics: Numerics) -> Iterator[None]:
    with torch.no_grad(), numerics(), fitting():
        yield


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
