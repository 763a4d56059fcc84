"""The trainer of one model: batches and weights as numpy arrays, steps by `Engine`."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.backend import Metrics, NumpyArrays, Snapshot
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.rng import key32
from lm_torch import onednn, product_choice
from lm_torch.dropout import part_key
from lm_torch.engine import Engine, make_model
from lm_torch.inputs import Inputs
from lm_torch.model import LanguageModel
from lm_torch.ranks import dist_rank
from lm_torch.scorer import Scoring, as_numpy, load_weights
from lm_torch.snapshot import HostCopies

__all__ = ["TorchTrainer", "load_weights", "make_model"]


class TorchTrainer(Engine, Scoring):
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
        super().__init__(model, optimizer, step, device)
        self.seed = seed
        self.choose_products()
        self.load(weights)
        self.copies = HostCopies(), HostCopies()

    def choices(self) -> dict[str, str]:
        """The kinds of products that go to oneDNN, and the instruction set, on a CPU."""
        if self.numerics.on_gpu:
            return {}
        products = product_choice.spelled(self.numerics.products)
        return {"instruction set": torch.backends.cpu.get_cpu_capability(), "products by oneDNN": products}

    def repeat(self, choices: Mapping[str, str]) -> None:
        """Multiply as the run did that made these `choices`, where this process can."""
        kinds = product_choice.parsed(str(choices.get("products by oneDNN")))
        if kinds is not None and onednn.AVAILABLE and not self.numerics.on_gpu:
            self.numerics.products = kinds

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step, for which the host does not wait."""
        read = self.take(self._next_inputs(batch), lr)
        return {"loss_nats": read[0], "grad_norm": read[1], "grad_norms": read[2:]}

    def _next_inputs(self, batch: Batch) -> Inputs:
        """On the host, with the dropout keys of the step that comes next."""
        if not self.dropout:
            return Inputs.of(batch)
        words, count = ("dropout", self.optimizer.t + 1), self.config.grad_accum_steps
        keys = [part_key(key32(self.seed, *words, i), dist_rank()) for i in range(count)]
        return Inputs.of(batch, torch.tensor(keys))

    def _next_loss_and_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Those of the step that comes next."""
        return self.loss_and_gradients(self._next_inputs(batch))

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Diagnostics of the optimizer in the last step."""
        return self.optimizer.diagnostics()

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss of the next step, with its gradients left on the device."""
        return self._next_loss_and_gradients(batch)[0]

    def gradients(self, batch: Batch) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss and gradients of the next step, without taking it."""
        loss, grads = self._next_loss_and_gradients(batch)
        return float(loss), {name: as_numpy(grad.float()) for name, grad in zip(self.params, grads, strict=True)}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter."""
        return {name: as_numpy(param) for name, param in self._whole(self.params)}

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """A copy of the optimizer's state."""
        return {name: as_numpy(tensor) for name, tensor in self._whole(self.named_state())}

    def _whole(self, tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
        return self.shards.each_whole(tensors) if self.shards else tensors.items()

    def snapshot(self) -> Snapshot:
        """State for a checkpoint as it is now, to be read later and from another thread, until the next snapshot."""
        if self.shards:  # gathered one by one; the first rank alone keeps them
            first = self.shards.rank == 0
            whole = tuple(
                {name: as_numpy(tensor) for name, tensor in self._whole(tensors) if first}
                for tensors in (self.params, self.named_state())
            )
            return lambda: (whole[0], whole[1])
        weights, state = self.copies[0].take(self.params), self.copies[1].take(self.named_state())
        return lambda: (weights(), state())

    def load(self, weights: NumpyArrays, optimizer_state: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Replace the parameters and, if given, the optimizer's state."""
        load_weights(self.model, weights, self.params, *([self.shards.part] if self.shards else []))
        self.write_narrow()
        self.average.start()
        if optimizer_state is not None:
            if self.shards:
                optimizer_state = {
                    key: self.shards.part(torch.from_numpy(array)).numpy()
                    if array.ndim and key.partition(".")[2] in self.table
                    else array
                    for key, array in optimizer_state.items()
                }
            self.optimizer.load(optimizer_state)
            self.average.load(optimizer_state)

    def _whole_model(self) -> LanguageModel:
        """The model; of one that is cut among the ranks, a copy that is whole."""
        if not self.shards:
            return self.model
        model = make_model(self.model.config, self.config, self.device)
        load_weights(model, self.weights())
        return model
