"""The training step: forward, backward, clip, update, on one device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from numpy.typing import NDArray

from lm_core.backend import Metrics, NumpyArrays, Snapshot
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.parameters import parameter_table
from lm_core.rng import key32
from lm_mlx.average import Average
from lm_mlx.clip import clip_by_global_norm
from lm_mlx.optim import make_optimizer
from lm_mlx.optim.base import Arrays
from lm_mlx.ranks import joined, means, others
from lm_mlx.scorer import Lazy, MlxScorer, Part, given, load_weights, make_model

__all__ = ["MlxTrainer", "load_weights", "make_model"]


class MlxTrainer(MlxScorer):
    """See `lm_core.backend.Trainer`."""

    def __init__(
        self, model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, weights: NumpyArrays, seed: int
    ):
        self.hold(model, step)
        self.seed, self.world = seed, joined()
        self.dropout, self.grad_clip = model.dropout, optimizer.grad_clip
        self.optimizer = make_optimizer(optimizer, parameter_table(model))
        self.average = Average(optimizer.average)
        self.value_and_grad = nn.value_and_grad(self.model, self.model.loss)
        self.load(weights)
        self.kernel = self._update
        if step.compile:
            state = [self.model.state, self.optimizer.state, self.average.values]
            self.kernel = mx.compile(self._update, inputs=state, outputs=state)

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
        return {"loss_nats": Lazy(loss), "grad_norm": Lazy(norm), "grad_norms": Lazy(norms)}

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
        return [given(part, self._dropout_key(i)) for i, part in enumerate(parts)]

    def _dropout_key(self, micro_batch: int) -> mx.array | None:
        if not self.dropout:
            return None
        key = key32(self.seed, "dropout", self.optimizer.t + 1, micro_batch)
        return mx.array(key if self.world.size == 1 else [key, self.world.rank], dtype=mx.uint32)

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Diagnostics of the optimizer in the last step."""
        return self.optimizer.diagnostics()

    def forward_backward(self, batch: Batch) -> "Lazy":
        """Loss of the next step, with its gradients left on the device."""
        loss, grads = self._loss_and_gradients(self._parts(batch))
        mx.async_eval(loss, grads)
        return Lazy(loss)

    def gradients(self, batch: Batch) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss and gradients of the next step, without taking it."""
        loss, grads = self._loss_and_gradients(self._parts(batch))
        return float(Lazy(loss)), {name: np.array(grad) for name, grad in grads.items()}

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
