"""The training step: forward, backward, clip, update, on one device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from numpy.typing import NDArray

from lm_core.backend import Marks, Metrics, NumpyArrays, Snapshot
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.parameters import check_fit, parameter_table
from lm_core.model.positions import document_starts
from lm_core.rng import key32
from lm_mlx.average import Average
from lm_mlx.clip import clip_by_global_norm
from lm_mlx.decode import MlxDecoder
from lm_mlx.layers import KERNELS
from lm_mlx.model import LanguageModel
from lm_mlx.optim import make_optimizer
from lm_mlx.optim.base import Arrays
from lm_mlx.ranks import joined, means, others
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


class MlxTrainer:
    """See `lm_core.backend.Trainer`."""

    def __init__(
        self, model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, weights: NumpyArrays, seed: int
    ):
        self.config, self.seed, self.world = step, seed, joined()
        self.dropout, self.grad_clip = model.dropout, optimizer.grad_clip
        self.model = make_model(model, step)
        table = parameter_table(model)
        self.names = list(table)
        assert self._params().keys() == table.keys(), "the model and the parameter table must agree"
        self.optimizer = make_optimizer(optimizer, table)
        self.average = Average(optimizer.average)
        self.value_and_grad = nn.value_and_grad(self.model, self.model.loss)
        self.load(weights)
        self.kernel = self._update
        if step.compile:
            state = [self.model.state, self.optimizer.state, self.average.values]
            self.kernel = mx.compile(self._update, inputs=state, outputs=state)

    def _params(self) -> Arrays:
        return dict(tree_flatten(self.model.parameters()))

    def choices(self) -> dict[str, str]:
        """Nothing is chosen here by measurement."""
        return {}

    def repeat(self, choices: Mapping[str, str]) -> None:
        """Nothing to repeat."""

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step. The device runs ahead of Python; reading a metric waits for it."""
        parts = self._parts(batch)
        loss, norm, norms = self.kernel(parts, self.optimizer.scalars(lr))
        if self.optimizer.t % self.config.barrier_every == 0:
            with others():
                mx.async_eval(loss, norm, norms, self.model.parameters(), self.optimizer.state, self.average.values)
        return {"loss_nats": _Lazy(loss), "grad_norm": _Lazy(norm), "grad_norms": _Lazy(norms)}

    def _update(self, parts: list[Part], scalars: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Change the model's and the optimizer's state; returns loss, gradient norm and that of each parameter."""
        loss, grads = self._loss_and_gradients(parts)
        grads, norm, norms = clip_by_global_norm(grads, self.grad_clip)
        params = self.optimizer.update(self._params(), grads, scalars)
        self.model.update(tree_unflatten(list(params.items())))
        self.average.update(params)
        return loss, norm, norms

    def named_state(self) -> Arrays:
        """State of the optimizer and the average."""
        return self.optimizer.named_state() | self.average.named_state()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """See `lm_core.backend.Trainer`."""
        params = self._params()
        self.model.update(tree_unflatten(list(self.average.values.items())))
        try:
            yield
        finally:
            self.model.update(tree_unflatten(list(params.items())))

    def _loss_and_gradients(self, parts: list[Part]) -> tuple[mx.array, Arrays]:
        """Mean loss over the batch and its gradients in the table's order, added up over the micro-batches."""
        loss, grads = self.value_and_grad(*parts[0])
        for part in parts[1:]:
            more_loss, more_grads = self.value_and_grad(*part)
            loss = loss + more_loss
            grads = tree_map(mx.add, grads, more_grads)
        flat = dict(tree_flatten(grads))
        if len(parts) == 1:
            return means(self.world, loss, {name: flat[name] for name in self.names})
        return means(self.world, loss / len(parts), {name: flat[name] / len(parts) for name in self.names})

    def _parts(self, batch: Batch) -> list[Part]:
        parts = batch.split(self.config.grad_accum_steps)
        return [_given(part, self._dropout_key(i)) for i, part in enumerate(parts)]

    def _dropout_key(self, micro_batch: int) -> mx.array | None:
        if not self.dropout:
            return None
        key = key32(self.seed, "dropout", self.optimizer.t + 1, micro_batch)
        return mx.array(key if self.world.size == 1 else [key, self.world.rank], dtype=mx.uint32)

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Diagnostics of the optimizer in the last step."""
        return self.optimizer.diagnostics()

    def evaluate(self, batch: Batch) -> "_Lazy":
        """Mean over the targets of weight x nats, without dropout."""
        return _Lazy(self.model.loss(*_given(batch)))

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Nats of each target [B, T], without weights and dropout."""
        inputs, targets, _, _, starts = _given(batch)
        return np.array(self.model.token_losses(inputs, targets, starts))

    def marks(self, batch: Batch) -> Marks:
        """Nats, rank and confidence of each target, each [B, T], without weights and dropout."""
        inputs, targets, _, _, starts = _given(batch)
        return Marks.of(np.array(self.model.token_marks(inputs, targets, starts)))

    def logits(self, inputs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, T, V]."""
        return np.array(self.model(mx.array(inputs)))

    def forward_backward(self, batch: Batch) -> "_Lazy":
        """Loss of the next step, with its gradients left on the device."""
        loss, grads = self._loss_and_gradients(self._parts(batch))
        mx.async_eval(loss, grads)
        return _Lazy(loss)

    def gradients(self, batch: Batch) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss and gradients of the next step, without taking it."""
        loss, grads = self._loss_and_gradients(self._parts(batch))
        return float(_Lazy(loss)), {name: np.array(grad) for name, grad in grads.items()}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter."""
        params = self._params()
        return {name: np.array(params[name]) for name in self.names}

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """A copy of the optimizer's state."""
        return {name: np.array(array) for name, array in self.named_state().items()}

    def snapshot(self) -> Snapshot:
        """State for a checkpoint as it is now, to be read later and from another thread.

        No copy: an update makes new arrays, and leaves alone the memory of one that is held here. The handles are new
        ones, for `+=` on the other would change what it stands for.
        """
        params = self._params()
        weights = {name: mx.stop_gradient(params[name]) for name in self.names}
        state = {name: mx.stop_gradient(array) for name, array in self.named_state().items()}
        mx.eval(weights, state)
        views = tuple({name: np.asarray(array) for name, array in arrays.items()} for arrays in (weights, state))
        return lambda: cast(tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]], views)

    def load(self, weights: NumpyArrays, optimizer_state: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Replace the parameters and, if given, the optimizer's state."""
        load_weights(self.model, weights)
        self.average.start(self._params())
        if optimizer_state is not None:
            self.optimizer.load(dict(optimizer_state))
            self.average.load(dict(optimizer_state))

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """Root mean square of the residual stream after each block."""
        taps: list[mx.array] = []
        inputs, _, _, _, starts = _given(batch)
        self.model.hidden(inputs, starts=starts, taps=taps)
        rms = np.array(mx.stack([mx.sqrt(mx.square(x.astype(mx.float32)).mean()) for x in taps]))
        return {f"blocks.{i}": float(value) for i, value in enumerate(rms)}

    def tap(self, batch: Batch) -> Iterator[TappedLayer]:
        """Every block in turn, without dropout."""
        inputs, _, _, _, starts = _given(batch)
        return tapped_layers(self.model, inputs, starts)

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> MlxDecoder:
        """A decoder over the current weights."""
        return MlxDecoder(self.model, rows, vocab_size, self.config.weights_dtype)


def _given(batch: Batch, key: mx.array | None = None) -> Part:
    weights = None if batch.weights is None else mx.array(batch.weights)
    starts = None if batch.segments is None else mx.array(document_starts(batch.segments))
    return mx.array(batch.inputs), mx.array(batch.targets), key, weights, starts


class _Lazy:
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
