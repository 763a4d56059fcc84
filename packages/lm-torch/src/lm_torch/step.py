"""The training step: forward, backward, clip, update, on one device.

    batch, lr --Inputs, on the host--> _step, on the device alone --> loss and norms, read later

`_step` neither reads a number back nor makes the host wait, so that it may be recorded as a CUDA graph (`graph`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_core.backend import Metrics, NumpyArrays, Snapshot
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.parameters import check_fit, parameter_table
from lm_core.rng import key32
from lm_torch.clip import clip_by_global_norm
from lm_torch.compiling import compiling
from lm_torch.decode import TorchDecoder
from lm_torch.fitting import check_dtype, fitting
from lm_torch.graph import Graphs, is_launch_bound
from lm_torch.host import Reading, upload
from lm_torch.inputs import Inputs, Part
from lm_torch.layers import KERNELS
from lm_torch.model import LanguageModel
from lm_torch.narrow import narrowed, wide_like
from lm_torch.numerics import Numerics
from lm_torch.optim import make_optimizer
from lm_torch.snapshot import HostCopies
from lm_torch.static_decode import make_decoder


def make_model(model: ModelConfig, step: StepConfig, device: torch.device) -> LanguageModel:
    """The model that a config describes, on a device; its weights are not set."""
    check_dtype(step.dtype, device)
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
        self.dropout, self.grad_clip = model.dropout, optimizer.grad_clip
        self.model = make_model(model, step, device)
        named = dict(self.model.named_parameters())
        table = parameter_table(model)
        assert named.keys() == table.keys(), "the model and the parameter table must agree"
        self.params = {name: named[name] for name in table}
        self.narrow: dict[str, Tensor] = {}
        self.load(weights)
        self.optimizer = make_optimizer(optimizer, table, dict(self.params), step.kernels == "fused")
        if device.type == "cuda" and step.dtype == "bfloat16":
            self.keep_narrow()
        self.copies = HostCopies(), HostCopies()
        self.numerics = Numerics(step, device)
        self.loss = self.model.loss
        if step.compile:
            options = self.numerics.compiler_options()
            # Chosen, not left to torch: a resumed run that meets another length first must get the same kernels.
            self.loss = torch.compile(self.model.loss, dynamic=step.varying_length, options=options)
            self.optimizer.compile(options)
        self.graphs = Graphs(device)
        self.size = sum(parameter.size for parameter in table.values())

    def keep_narrow(self) -> None:
        """Have the layers read copies of their weights in the type of the activations, which the optimizer writes."""
        self.narrow = narrowed(self.model)
        self.optimizer.keep_narrow(self.narrow)

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step, for which the host does not wait."""
        with self._computing():
            inputs = self._next_inputs(batch)
            scalars = self.optimizer.next_scalars(lr)
            if self._is_graphed(batch):
                values = self.graphs.call(self._step, scalars, *inputs)
            else:
                values = self._step(upload(scalars, self.device), *inputs.on(self.device))
            read = Reading(values)
        return {"loss_nats": read[0], "grad_norm": read[1], "grad_norms": read[2:]}

    def _is_graphed(self, batch: Batch) -> bool:
        if self.config.cuda_graph == "auto":
            return self.device.type == "cuda" and is_launch_bound(self.size, batch.tokens)
        return self.config.cuda_graph == "on"

    def _step(self, scalars: Tensor, *inputs: Any) -> Tensor:
        """Take a step from what is on the device; returns loss, gradient norm, and that of each parameter."""
        loss, grads = self._loss_and_gradients(Inputs(*inputs))
        norm, norms, scale = clip_by_global_norm(grads, self.grad_clip)
        self.optimizer.apply(grads, scalars, scale, norms)
        return torch.cat([loss[None], norm[None], norms])

    def _loss_and_gradients(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Mean loss over the batch and its gradients in the table's order, added up over the micro-batches."""
        # Freed here rather than after the update: freed there, the heap would shrink and be faulted in again.
        self.model.zero_grad(set_to_none=True)
        total, sums, count = torch.zeros((), device=self.device), None, self.config.grad_accum_steps
        for part in inputs.parts(count):
            loss = self.loss(*part) / count
            loss.backward()
            total += loss.detach()
            if self.narrow and count > 1:
                sums = self._added_to(sums)
        return total, self._gradients() if sums is None else sums

    def _gradients(self) -> list[Tensor]:
        grads = []
        for name, param in self.params.items():
            grad = self.narrow.get(name, param).grad
            assert grad is not None
            grads.append(grad)
        return grads

    def _added_to(self, sums: list[Tensor] | None) -> list[Tensor]:
        """The gradients of a micro-batch on top of those before, in float32: `backward` would add narrow ones up."""
        grads = wide_like(list(self.params.values()), self._gradients())
        self.model.zero_grad(set_to_none=True)
        if sums is None:
            return grads
        torch._foreach_add_(sums, grads)
        return sums

    def _next_inputs(self, batch: Batch) -> Inputs:
        """On the host, with the dropout keys of the step that comes next."""
        if not self.dropout:
            return Inputs.of(batch)
        words = "dropout", self.optimizer.t + 1
        return Inputs.of(
            batch, torch.tensor([key32(self.seed, *words, i) for i in range(self.config.grad_accum_steps)])
        )

    def _next_loss_and_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Those of the step that comes next."""
        with self._computing():
            return self._loss_and_gradients(self._next_inputs(batch).on(self.device))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with self.numerics(), compiling(), fitting():
            yield

    def _inputs(self, batch: Batch) -> Part:
        """The arguments of `LanguageModel.loss`, without dropout."""
        return next(Inputs.of(batch).on(self.device).parts(1))

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Diagnostics of the optimizer in the last step."""
        return self.optimizer.diagnostics()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Mean over the targets of weight x nats, without dropout."""
        with self.numerics(), fitting():
            return self.model.loss(*self._inputs(batch))

    @torch.no_grad()
    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Nats of each target [B, T], without weights and dropout."""
        ids, targets, *_, starts = self._inputs(batch)
        with self.numerics():
            return _numpy(self.model.token_losses(ids, targets, starts))

    @torch.no_grad()
    def logits(self, inputs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, T, V]."""
        with self.numerics():
            return _numpy(self.model(upload(inputs, self.device).long()))

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of the next step, with its gradients left on the device."""
        return self._next_loss_and_gradients(batch)[0]

    def gradients(self, batch: Batch) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss and gradients of the next step, without taking it."""
        loss, grads = self._next_loss_and_gradients(batch)
        return float(loss), {name: _numpy(grad.float()) for name, grad in zip(self.params, grads, strict=True)}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter."""
        return {name: _numpy(param) for name, param in self.params.items()}

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """A copy of the optimizer's state."""
        return {name: _numpy(tensor) for name, tensor in self.optimizer.named_state().items()}

    def snapshot(self) -> Snapshot:
        """State for a checkpoint as it is now, to be read later and from another thread, until the next snapshot."""
        weights, state = self.copies[0].take(self.params), self.copies[1].take(self.optimizer.named_state())
        return lambda: (weights(), state())

    @torch.no_grad()
    def load(self, weights: NumpyArrays, optimizer_state: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Replace the parameters and, if given, the optimizer's state."""
        load_weights(self.model, weights)
        for name in self.narrow:
            self.params[name].copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
        if optimizer_state is not None:
            self.optimizer.load(optimizer_state)

    @torch.no_grad()
    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """Root mean square of the residual stream after each block."""
        taps: list[Tensor] = []
        ids, *_, starts = self._inputs(batch)
        with self.numerics():
            self.model.hidden(ids, starts=starts, taps=taps)
        rms = torch.stack([x.float().square().mean().sqrt() for x in taps]).tolist()
        return {f"blocks.{i}": value for i, value in enumerate(rms)}

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> TorchDecoder:
        """A decoder over the current weights."""
        return make_decoder(self.model, self.config, rows, vocab_size)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().copy()
