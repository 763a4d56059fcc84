"""A batch as tensors: on the host as it is read, then on the device as the model takes it."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from lm_core.data.batches import Batch
from lm_core.model.positions import document_starts
from lm_torch.host import upload

Part = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
"""The arguments of `LanguageModel.loss`: inputs, targets, dropout keys, weights, starts of documents."""


class Inputs(NamedTuple):
    """Inputs of a loss; all but `keys` are [B, T], or [K, B, T] of several seeds."""

    ids: Tensor
    """Integers of any width."""
    targets: Tensor
    """Integers of any width."""
    keys: Tensor | None = None
    """The dropout key of each micro-batch, [micro-batches] or [micro-batches, K], int64."""
    weights: Tensor | None = None
    """Of the targets, float32."""
    starts: Tensor | None = None
    """Start of the document of each token; integers of any width."""

    @classmethod
    def of(cls, batch: Batch, keys: Tensor | None = None) -> Self:
        """A batch on the host, without a copy."""
        weights = None if batch.weights is None else torch.from_numpy(batch.weights)
        starts = None if batch.segments is None else torch.from_numpy(document_starts(batch.segments))
        return cls(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets), keys, weights, starts)

    def on(self, device: torch.device) -> Self:
        """The same on the device, for which the host does not wait."""
        tensors: list[Any] = [None if tensor is None else upload(tensor, device) for tensor in self]
        return type(self)(*tensors)

    def parts(self, count: int) -> Iterator[Part]:
        """Each of `count` equal micro-batches, in the order of the rows."""
        nothing = (None,) * count
        weights = nothing if self.weights is None else _split(self.weights, count)
        starts = nothing if self.starts is None else _split(self.starts.long(), count)
        keys = nothing if self.keys is None else self.keys.unbind()
        return zip(
            _split(self.ids.long(), count), _split(self.targets.long(), count), keys, weights, starts, strict=True
        )


def _split(x: Tensor, count: int) -> tuple[Tensor, ...]:
    return x.unflatten(-2, (count, -1)).unbind(-3)
