"""The training step: forward, backward, clip, update, on one device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_core.backend import Metrics, NumpyArrays, Snapshot
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.parameters import check_fit, parameter_table
from lm_core.model.positions import document_starts
from lm_core.rng import key32
from lm_torch.clip import clip_by_global_norm
from lm_torch.compiling import compiling
from lm_torch.decode import TorchDecoder
from lm_torch.layers import KERNELS
from lm_torch.model import LanguageModel
from lm_torch.optim import make_optimizer
from lm_torch.snapshot import HostCopies
from lm_torch.static_decode import make_decoder

Part = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
"""The arguments of `LanguageModel.loss`: inputs, targets, dropout key, weights, starts of documents."""


def make_model(model: ModelConfig, step: StepConfig, device: torch.device) -> LanguageModel:
    """The model that a config describes, on a device; its weights are not set."""
    dtype = torch.bfloat16 if step.dtype == "bfloat16" else torch.float32
    with torch.device("meta"):  # no time is spent on initial values that will be replaced
        language_model = LanguageModel(model, dtype, KERNELS[step.kernels], step.gradient_checkpointing)
    for module in language_model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # What `to_empty` does, which imports two seconds of the compiler for it.
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device=device)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return language_model


@torch.no_grad()
def load_weights(model: LanguageModel, weights: NumpyArrays) -> None:
    """Copy the arrays of the parameter table in."""
    check_fit(parameter_table(model.config), weights)
    for name, param in model.named_parameters():
        param.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


class TorchTrainer:
    """See `lm_core.backend.Trainer`."""

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        step: StepConfig,
        weights: NumpyArrays,
        seed: int,
        device: torch.device,
    ):
        self.config, self.seed, self.device = step, seed, device
        self.dropout = model.dropout
        self.model = make_model(model, step, device)
        named = dict(self.model.named_parameters())
        table = parameter_table(model)
        assert named.keys() == table.keys(), "the model and the parameter table must agree"
        self.params = {name: named[name] for name in table}
        self.load(weights)
        self.optimizer = make_optimizer(optimizer, table, dict(self.params), step.kernels == "fused")
        self.copies = HostCopies(), HostCopies()
        self.loss = self.model.loss
        if step.compile:
            # Chosen, not left to torch: a resumed run that meets another length first must get the same kernels.
            self.loss = torch.compile(self.model.loss, dynamic=step.varying_length)
            self.optimizer.compile()

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step."""
        with compiling():
            loss, grads = self._loss_and_gradients(batch)
        norm, norms = clip_by_global_norm(grads, self.config.grad_clip)
        self.optimizer.step(grads, lr)
        return {"loss_nats": loss, "grad_norm": norm, "grad_norms": norms}

    def _loss_and_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Mean loss over the batch and its gradients in the table's order, added up over the micro-batches."""
        # Freed here rather than after the update: freed there, the heap would shrink and be faulted in again.
        self.model.zero_grad(set_to_none=True)
        parts = batch.split(self.config.grad_accum_steps)
        total = torch.zeros((), device=self.device)
        for i, part in enumerate(parts):
            loss = self.loss(*self._given(part, self._dropout_key(i))) / len(parts)
            loss.backward()
            total += loss.detach()
        grads = []
        for param in self.params.values():
            assert param.grad is not None
            grads.append(param.grad)
        return total, grads

    def _dropout_key(self, micro_batch: int) -> Tensor | None:
        if not self.dropout:
            return None
        return torch.tensor(key32(self.seed, "dropout", self.optimizer.t + 1, micro_batch), device=self.device)

    def _given(self, batch: Batch, key: Tensor | None = None) -> Part:
        weights = None if batch.weights is None else torch.from_numpy(batch.weights)
        on_device = None if weights is None else weights.to(self.device, non_blocking=True)
        return self._ids(batch.inputs), self._ids(batch.targets), key, on_device, self._starts(batch)

    def _starts(self, batch: Batch) -> Tensor | None:
        return None if batch.segments is None else self._ids(document_starts(batch.segments))

    def _ids(self, ids: NDArray[np.integer[Any]]) -> Tensor:
        return torch.from_numpy(ids).to(self.device, torch.int64, non_blocking=True)

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """What the optimizer did in the last step."""
        return self.optimizer.diagnostics()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Mean over the targets of weight x nats, without dropout."""
        return self.model.loss(*self._given(batch))

    @torch.no_grad()
    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Nats of each target [B, T], without weights and dropout."""
        return _numpy(self.model.token_losses(self._ids(batch.inputs), self._ids(batch.targets), self._starts(batch)))

    @torch.no_grad()
    def logits(self, inputs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, T, V]."""
        return _numpy(self.model(self._ids(inputs)))

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of the next step, with its gradients left on the device."""
        return self._loss_and_gradients(batch)[0]

    def gradients(self, batch: Batch) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss and gradients of the next step, without taking it."""
        loss, grads = self._loss_and_gradients(batch)
        return float(loss), {name: _numpy(grad) for name, grad in zip(self.params, grads, strict=True)}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter."""
        return {name: _numpy(param) for name, param in self.params.items()}

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """A copy of the optimizer's state."""
        return {name: _numpy(tensor) for name, tensor in self.optimizer.named_state().items()}

    def snapshot(self) -> Snapshot:
        """What a checkpoint would hold now, to be read later and from another thread, until the next snapshot."""
        weights, state = self.copies[0].take(self.params), self.copies[1].take(self.optimizer.named_state())
        return lambda: (weights(), state())

    @torch.no_grad()
    def load(self, weights: NumpyArrays, optimizer_state: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Replace the parameters and, if given, the optimizer's state."""
        load_weights(self.model, weights)
        if optimizer_state is not None:
            self.optimizer.load(optimizer_state)

    @torch.no_grad()
    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """Root mean square of the residual stream after each block."""
        taps: list[Tensor] = []
        self.model.hidden(self._ids(batch.inputs), starts=self._starts(batch), taps=taps)
        rms = torch.stack([x.float().square().mean().sqrt() for x in taps]).tolist()
        return {f"blocks.{i}": value for i, value in enumerate(rms)}

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> TorchDecoder:
        """A decoder over the current weights."""
        return make_decoder(self.model, self.config, rows, vocab_size)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().copy()
