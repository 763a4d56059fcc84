"""A scorer: the float64 reference in the place of a backend."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import AttentionTotals
from lm_core.config import ModelConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.reference import model as reference

Weights = Mapping[str, NDArray[Any]]


@dataclass
class ReferenceLayer:
    config: ModelConfig
    weights: Weights
    batch: Batch
    index: int

    def attention(self, heads: slice = slice(None)) -> NDArray[np.float32]:
        args = self.config, self.weights, self.batch.inputs, self.index, self.batch.segments
        return reference.attention_weights(*args)[:, heads].astype(np.float32)

    def attention_totals(self) -> AttentionTotals:
        return reference.attention_totals(self.attention().astype(np.float64))

    def residual(self) -> NDArray[np.float32]:
        args = self.config, self.weights, self.batch.inputs, self.index + 1, self.batch.segments
        return reference.residual(*args).astype(np.float32)

    def lens(self, targets: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        logits = reference.lens(self.config, self.weights, self.residual().astype(np.float64))
        return reference.token_losses(logits, targets).astype(np.float32), logits.argmax(axis=-1).astype(np.int32)


class ReferenceScorer:
    """What a study asks of a scorer, and of a backend that makes one."""

    name = "reference"

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config, self.held = config, weights

    def scorer(self, config: ModelConfig, step: StepConfig, weights: Weights) -> Any:
        return ReferenceScorer(config, weights)

    def memory(self, step: StepConfig) -> int | None:
        return None

    def describe(self, step: StepConfig) -> str:
        return "reference"

    def load(self, weights: Weights) -> None:
        self.held = weights

    def tap(self, batch: Batch) -> Iterator[ReferenceLayer]:
        return (ReferenceLayer(self.config, self.held, batch, i) for i in range(self.config.n_layers))

    def score(self, batch: Batch) -> NDArray[np.float32]:
        args = self.config, self.held, batch.inputs, batch.targets, batch.segments
        return reference.score(*args).astype(np.float32)
