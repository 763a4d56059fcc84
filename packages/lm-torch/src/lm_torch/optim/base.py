"""What the optimizers share: named state, the step counter, weight decay.

Updates use torch's multi-tensor operations (`_foreach_*`): one call for a list of tensors, which a GPU runs in few
kernels and a compiler fuses further. The scalars that change from step to step come as tensors, so that a compiled
update is compiled once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.config import OptimizerConfig
from lm_core.model.parameters import Table
from lm_core.optim import decayed


class Optimizer:
    """Owns the state of one optimizer over those of `params` that `table` names, which it changes in place."""

    slot_kinds: tuple[str, ...] = ("m", "v")
    """State with one tensor per parameter, of its shape."""

    def __init__(self, config: OptimizerConfig, table: Table, params: dict[str, Tensor]):
        self.names = list(table)
        self.params = [params[name] for name in self.names]
        self.device = self.params[0].device
        self.t = 0
        self.weight_decay = config.weight_decay
        self.decayed = [params[name] for name in decayed(config.decay_groups, table)] if config.weight_decay else []
        self.slots: dict[str, list[Tensor]] = {}
        for kind in self.slot_kinds:
            self.add_slot(kind)
        self.kernel = self.update

    def add_slot(self, kind: str) -> None:
        """State of the parameters' shapes, zero at first."""
        self.slots[kind] = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def compile(self) -> None:
        """Let torch fuse the update into few kernels, where launching kernels is what costs: not on the CPU."""
        if self.device.type != "cpu":
            self.kernel = torch.compile(self.update)

    @torch.no_grad()
    def step(self, grads: list[Tensor], lr: float) -> None:
        """Update the parameters with gradients in the order of the table."""
        self.t += 1
        scalars = torch.tensor([lr, *self.corrections()], dtype=torch.float32)
        if self.device.type != "cpu":
            scalars = scalars.pin_memory().to(self.device, non_blocking=True)
        self.kernel(grads, *scalars.unbind())

    def decay_weights(self, lr: Tensor) -> None:
        """p <- p (1 - lr weight_decay) for the decay groups."""
        if self.decayed:
            torch._foreach_mul_(self.decayed, 1 - lr * self.weight_decay)

    def corrections(self) -> tuple[float, float]:
        """c1 and c2 of the specification at step t, in double precision."""
        raise NotImplementedError

    def update(self, grads: list[Tensor], lr: Tensor, c1: Tensor, c2: Tensor) -> None:
        """One step; the scalars are 0-dimensional tensors."""
        raise NotImplementedError

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """What is worth a look, by bucket."""
        return {}

    def named_state(self) -> dict[str, Tensor]:
        """The state itself, which the next step changes, under the names of `lm_core.optim`."""
        state = {"step": torch.tensor(self.t)}
        for kind, tensors in self.slots.items():
            state |= {f"{kind}.{name}": tensor for name, tensor in zip(self.names, tensors, strict=True)}
        return state

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the state."""
        self.t = int(arrays["step"])
        for kind, tensors in self.slots.items():
            for name, tensor in zip(self.names, tensors, strict=True):
                tensor.copy_(torch.from_numpy(arrays[f"{kind}.{name}"]))
