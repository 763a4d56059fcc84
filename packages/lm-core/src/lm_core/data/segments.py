"""Documents in packed windows: which one each input is of, from the ids that end them.

    inputs   a  b  </s> c  d  e  </s> f
    segments 0  0  0    1  1  1  1    2

The id that ends a document belongs to it, and its target is the first id of the next one: a document is learned to
begin after any other. Attention stays within a document and positions restart at its first id (contract 15).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from lm_core.data.batches import Batch, Batches, Origin, Resumable


def with_segments(batch: Batch, eos_id: int) -> Batch:
    """The batch with the documents of its inputs: [B, T], counted in each row from 0."""
    ends = batch.inputs == eos_id
    segments = np.cumsum(ends, axis=1, dtype=np.int32) - ends
    return replace(batch, segments=segments.astype(np.int32))


@dataclass(frozen=True)
class DocumentBatches:
    """Any batches, with the documents of their inputs."""

    batches: Batches
    eos_id: int

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` that belong to `rank` of `world`."""
        return with_segments(self.batches.batch(step, rank, world), self.eos_id)

    def shape(self, step: int) -> tuple[int, int]:
        """B and T of `step`."""
        return self.batches.shape(step)


@dataclass(frozen=True)
class ResumableDocumentBatches(DocumentBatches):
    """The same of batches that are counted on through a resume."""

    batches: Resumable

    @property
    def batch_size(self) -> int:
        """B."""
        return self.batches.batch_size

    @property
    def origin(self) -> Origin:
        """Progress at the last change of the batch size."""
        return self.batches.origin

    def resumed(self, origin: Origin, step: int, batch_size: int, *, other: bool) -> "ResumableDocumentBatches":
        """The batches of a run that is resumed after `step`."""
        return replace(self, batches=self.batches.resumed(origin, step, batch_size, other=other))


def within_documents(batches: Batches, eos_id: int) -> Batches:
    """Any batches, with the documents of their inputs."""
    if isinstance(batches, Resumable):
        return ResumableDocumentBatches(batches, eos_id)
    return DocumentBatches(batches, eos_id)


@dataclass(frozen=True)
class DocumentSequence(Sequence[Batch]):
    """A sequence of batches, as evaluations read them, with the documents of their inputs."""

    batches: Sequence[Batch]
    eos_id: int

    def __len__(self) -> int:
        return len(self.batches)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        """The batch of an index, or those of a slice."""
        found = self.batches[index]
        if isinstance(found, Batch):
            return with_segments(found, self.eos_id)
        return [with_segments(batch, self.eos_id) for batch in found]
