"""The training step on one device: forward, backward, clip, update, for one model, or for K of one shape.

    inputs, lr, on the host --> _step, on the device alone --> loss and norms, read later

`_step` neither reads a number back nor makes the host wait, so that it may be recorded as a CUDA graph (`graph`).
`step` and `seeds` are what calls it: the trainer of one model, and that of several seeds at once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.errors import UserError
from lm_core.model.parameters import parameter_table
from lm_core.terminal import say
from lm_torch import float8, heap
from lm_torch.average import Average
from lm_torch.clip import clip_by_global_norm
from lm_torch.compiling import compiled, compiling
from lm_torch.fitting import check_dtype, fitting
from lm_torch.graph import Graphs, is_launch_bound
from lm_torch.host import Reading, upload
from lm_torch.inputs import Inputs
from lm_torch.layers import KERNELS, Kernels
from lm_torch.model import LanguageModel
from lm_torch.narrow import narrowed, wide_like
from lm_torch.numerics import Numerics
from lm_torch.optim import make_optimizer
from lm_torch.ranks import Gradients, check_device, mean_loss, others, rank_count

if TYPE_CHECKING:
    from lm_torch.shards import Shards


def make_model(
    model: ModelConfig,
    step: StepConfig,
    device: torch.device,
    kernels: Kernels | None = None,
    lead: tuple[int, ...] = (),
) -> LanguageModel:
    """The model that a config describes, on a device; its weights are not set.

    Args:
        model: its shapes.
        step: type of the activations, and by default the kernels.
        device: where it is.
        kernels: in place of those that `step` names.
        lead: first axes of every parameter, for `stacked` kernels.
    """
    check_dtype(step.dtype, device)
    dtype = torch.float32 if step.dtype == "float32" else torch.bfloat16
    with torch.device("meta"):  # no time is spent on initial values that will be replaced
        language_model = LanguageModel(
            model,
            dtype,
            kernels or KERNELS[step.kernels],
            step.checkpointed_every,
            float8 if step.dtype == "float8" else None,
        )
    for module in language_model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # What `to_empty` does, which imports two seconds of the compiler for it.
            empty = torch.empty((*lead, *parameter.shape), dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(empty))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return language_model


def _sharded(model: LanguageModel, step: StepConfig, device: torch.device) -> "Shards":
    """The model cut among the ranks.

    Raises:
        UserError: with what does not go with it.
    """
    if step.compile:
        raise UserError('parallel fsdp: the step is not compiled; give compile = false, or parallel = "ddp"')
    from lm_torch.shards import Shards  # half a second, for those who need it

    return Shards(model, device)


class Engine:
    """Model, optimizer and graphs; all state is changed in place.

    Args:
        model: the shapes.
        optimizer: its settings.
        step: how it is computed.
        device: where.
        kernels: see `make_model`.
        lead: (), or (K,): the parameters' first axis, of losses and norms too; then the kernels are `stacked`.
    """

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        step: StepConfig,
        device: torch.device,
        kernels: Kernels | None = None,
        lead: tuple[int, ...] = (),
    ):
        check_device(device)
        self.config, self.device, self.lead = step, device, lead
        self.dropout, self.grad_clip = model.dropout, optimizer.grad_clip
        self.model = make_model(model, step, device, kernels, lead)
        if device.type == "cpu" and sum(weights.numel() for weights in self.model.parameters()) >= heap.SMALLEST:
            heap.keep_freed_memory()
        self.table, self.ranks = parameter_table(model), rank_count()
        if self.ranks > 1 and step.cuda_graph == "on":
            say("cuda_graph on: with several ranks the step is not a CUDA graph; its kernels are launched one by one")
        self.shards = _sharded(self.model, step, device) if self.ranks > 1 and step.parallel == "fsdp" else None
        named: dict[str, Tensor] = self.shards.shares() if self.shards else dict(self.model.named_parameters())
        assert named.keys() == self.table.keys(), "the model and the parameter table must agree"
        self.params: Mapping[str, Tensor] = {name: named[name] for name in self.table}
        self.narrow: dict[str, Tensor] = {}
        self.optimizer = make_optimizer(optimizer, self.table, dict(self.params), step.kernels == "fused")
        self.optimizer.share(self.shards)
        self.average = Average(optimizer.average, self.params)
        if not self.shards and device.type == "cuda" and self.model.dtype == torch.bfloat16:
            self.keep_narrow()
        self.numerics = Numerics(step, device)
        self.loss = self.model.loss
        if step.compile:
            options = self.numerics.compiler_options()
            # Chosen, not left to torch: a resumed run that meets another length first must get the same kernels.
            self.loss = compiled(self.model.loss, step.varying_length, options)
            self.optimizer.compile(options)
        self.sync: Gradients | None = None
        if self.ranks > 1 and not self.shards:
            self.sync = Gradients([self.narrow.get(name, param) for name, param in self.params.items()])
        self.graphs = Graphs(device)
        self.size = sum(parameter.numel() for parameter in self.params.values())

    def keep_narrow(self) -> None:
        """Have the layers read copies of their weights in the type of the activations, which the optimizer writes."""
        self.narrow = narrowed(self.model)
        self.optimizer.keep_narrow(self.narrow)

    @torch.no_grad()
    def write_narrow(self) -> None:
        """Bring those copies up to date, after parameters were replaced."""
        if self.shards:
            self.shards.forget()
        for name, copy in self.narrow.items():
            copy.copy_(self.params[name])

    def named_state(self) -> dict[str, Tensor]:
        """State of the optimizer and the average itself, which the next step changes."""
        return self.optimizer.named_state() | self.average.named_state()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """See `lm_core.backend.Trainer`."""
        with self.average.in_place():
            self.write_narrow()
            yield
        self.write_narrow()

    def take(self, inputs: Inputs, lr: float) -> Reading:
        """One optimizer step, for which the host does not wait: loss, gradient norm, and that of each parameter,
        [*lead, 2 + parameters]."""
        with self.computing():
            scalars = self.optimizer.next_scalars(lr)
            if self._is_graphed(inputs):
                values = self.graphs.call(self._step, scalars, *inputs)
            else:
                values = self._step(upload(scalars, self.device), *inputs.on(self.device))
            return Reading(values)

    def _is_graphed(self, inputs: Inputs) -> bool:
        if self.ranks > 1:
            return False
        if self.config.cuda_graph == "auto":
            # Each of the tokens goes through the parameters of its own model.
            tokens = inputs.ids.shape[-2] * inputs.ids.shape[-1]
            return self.device.type == "cuda" and is_launch_bound(self.size, tokens)
        return self.config.cuda_graph == "on"

    def _step(self, scalars: Tensor, *inputs: Any) -> Tensor:
        loss, grads = self._loss_and_gradients(Inputs(*inputs))
        across = self.shards.norms if self.shards else None
        norm, norms, scale = clip_by_global_norm(grads, self.grad_clip, self.lead, across)
        self.optimizer.apply(grads, scalars, scale, norms)
        self.average.update()
        return torch.cat([loss[..., None], norm[..., None], norms], dim=-1)

    def _loss_and_gradients(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Mean loss over the batch and its gradients in the table's order, added up over the micro-batches."""
        if self.shards:
            self.shards.forget()
        # Freed here rather than after the update: freed there, the heap would shrink and be faulted in again.
        self.model.zero_grad(set_to_none=True)
        total, sums, count = torch.zeros(self.lead, device=self.device), None, self.config.grad_accum_steps
        added = bool(self.narrow) and count > 1
        for i, part in enumerate(inputs.parts(count), 1):
            loss = self.loss(*part) / count
            if self.sync and i == count and not added:
                self.sync.arm()
            if self.shards:
                self.shards.synchronize(i == count)
            # The sum over seeds has the gradient of each seed's own loss: no parameter has a part in two of them.
            (loss.sum() if self.lead else loss).backward()
            total += loss.detach()
            if added:
                sums = self._added_to(sums)
        if self.sync:
            return mean_loss(total), self.sync.mean(sums)
        if self.shards:
            found = self.shards.gradients()
            return mean_loss(total), [found[name] for name in self.params]
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

    def loss_and_gradients(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Those of inputs on the host, without a step."""
        with self.computing():
            return self._loss_and_gradients(inputs.on(self.device))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A context in which the model is trained."""
        with self.numerics(), compiling(), fitting(), others():
            yield
