"""A model that reads and does not train: weights and the activations of one batch, without optimizer and gradients.

    batch --on the device--> losses, marks, logits, or its blocks one by one --> numpy arrays

`MlxScorer` holds a model; `MlxTrainer` is one that trains it.
"""

from collections.abc import Iterator
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from lm_core.backend import Marks, NumpyArrays
from lm_core.config import ModelConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.parameters import check_fit, parameter_table
from lm_core.model.positions import document_starts
from lm_mlx.decode import MlxDecoder
from lm_mlx.layers import KERNELS
from lm_mlx.model import LanguageModel
from lm_mlx.optim.base import Arrays
from lm_mlx.ranks import others
from lm_mlx.tap import TappedLayer, tapped_layers

Part = tuple[mx.array, mx.array, mx.array | None, mx.array | None, mx.array | None]
"""The arguments of `LanguageModel.loss`: inputs, targets, dropout key, weights, starts of documents."""


def make_model(model: ModelConfig, step: StepConfig) -> LanguageModel:
    """The model that a config describes; its weights are not set."""
    dtype = mx.float32 if step.dtype == "float32" else mx.bfloat16
    return LanguageModel(model, dtype, KERNELS[step.kernels], step.checkpointed_every)


def load_weights(model: LanguageModel, weights: NumpyArrays) -> None:
    """Copy the arrays of the parameter table in."""
    table = parameter_table(model.config)
    check_fit(table, weights)
    model.update(tree_unflatten([(name, mx.array(weights[name])) for name in table]))
    mx.eval(model.parameters())


class MlxScorer:
    """See `lm_core.backend.Scorer`."""

    def __init__(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays):
        self.hold(model, step)
        self.load(weights)

    def hold(self, model: ModelConfig, step: StepConfig) -> None:
        """Make the model, whose weights are not set."""
        self.config, self.model = step, make_model(model, step)
        table = parameter_table(model)
        self.names = list(table)
        assert self._params().keys() == table.keys(), "the model and the parameter table must agree"

    def load(self, weights: NumpyArrays) -> None:
        """Replace the parameters."""
        load_weights(self.model, weights)

    def _params(self) -> Arrays:
        return dict(tree_flatten(self.model.parameters()))

    def evaluate(self, batch: Batch) -> "Lazy":
        """Mean over the targets of weight x nats, without dropout."""
        return Lazy(self.model.loss(*given(batch)))

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Nats of each target [B, T], without weights and dropout."""
        inputs, targets, _, _, starts = given(batch)
        return np.array(self.model.token_losses(inputs, targets, starts))

    def marks(self, batch: Batch) -> Marks:
        """Nats, rank and confidence of each target, each [B, T], without weights and dropout."""
        inputs, targets, _, _, starts = given(batch)
        return Marks.of(np.array(self.model.token_marks(inputs, targets, starts)))

    def logits(self, inputs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, T, V]."""
        return np.array(self.model(mx.array(inputs)))

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter."""
        params = self._params()
        return {name: np.array(params[name]) for name in self.names}

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """Root mean square of the residual stream after each block."""
        norms = (mx.sqrt(mx.square(layer.y.astype(mx.float32)).mean()) for layer in self.tap(batch))
        return {f"blocks.{i}": cast(float, norm.item()) for i, norm in enumerate(norms)}

    def tap(self, batch: Batch) -> Iterator[TappedLayer]:
        """Every block in turn, without dropout."""
        inputs, _, _, _, starts = given(batch)
        return tapped_layers(self.model, inputs, starts)

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> MlxDecoder:
        """A decoder over the current weights."""
        return MlxDecoder(self.model, rows, vocab_size, self.config.weights_dtype)


def given(batch: Batch, key: mx.array | None = None) -> Part:
    """A batch on the device, with a dropout key."""
    weights = None if batch.weights is None else mx.array(batch.weights)
    starts = None if batch.segments is None else mx.array(document_starts(batch.segments))
    return mx.array(batch.inputs), mx.array(batch.targets), key, weights, starts


class Lazy:
    """An array that waits to be asked for its value, or its values."""

    def __init__(self, array: mx.array):
        self.array = array

    def __float__(self) -> float:
        with others():
            return cast(float, self.array.item())

    def tolist(self) -> list[float]:
        """The values of a vector."""
        with others():
            return cast(list[float], self.array.tolist())
