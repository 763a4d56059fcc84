"""Shared code of the optimizers: named state, the step counter, weight decay.

    lr --next_scalars, on the host--> [lr, corrections, ...] --moved to the device--> apply

Updates use torch's multi-tensor operations (`_foreach_*`): one call for a list of tensors, which a GPU runs in few
kernels and a compiler fuses further. The scalars that change from step to step come as a tensor, so that a compiled
update is compiled once, and one that is recorded as a CUDA graph reads them again.

Parameters may have one axis more than the table says: the first then counts the K seeds that are trained together
(`lm_torch.seeds`). All but the number of the step is kept for each of them, and nothing is added up across them.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.config import OptimizerConfig
from lm_core.model.parameters import Table
from lm_core.optim import decayed
from lm_torch import kernels
from lm_torch.clip import scaled, scaled_
from lm_torch.compiling import compiled
from lm_torch.host import upload
from lm_torch.kernels.update import Update
from lm_torch.narrow import Narrow, wide_like

if TYPE_CHECKING:
    from lm_torch.shards import Shards


class Optimizer:
    """Owns the state of one optimizer over those of `params` that `table` names, which it changes in place."""

    slot_kinds: tuple[str, ...] = ("m", "v")
    """State with one tensor per parameter, of its shape."""

    def __init__(self, config: OptimizerConfig, table: Table, params: dict[str, Tensor]):
        self.names = list(table)
        self.params = [params[name] for name in self.names]
        self.device = self.params[0].device
        first = self.params[0].shape
        self.lead = first[: len(first) - len(table[self.names[0]].shape)]
        """(), or (K,)."""
        self.t = 0
        self.weight_decay = config.weight_decay
        self.decayed = [params[name] for name in decayed(config.decay_groups, table)] if config.weight_decay else []
        self.slots: dict[str, list[Tensor]] = {}
        for kind in self.slot_kinds:
            self.add_slot(kind)
        self.compiled: Callable[..., None] | None = None
        self.own: Update | None = None
        """This project's kernel, where it does the update."""
        self.narrow = Narrow({}, {})
        self.shards: Shards | None = None

    def share(self, shards: "Shards | None") -> None:
        """Have the parameters be this rank's shares."""
        self.shards = shards

    def update_by_kernel(self) -> None:
        """Have this project's kernel do the update, where it runs; all state must be there."""
        if kernels.usable(self.params[0]):
            decayed_ones = {id(p) for p in self.decayed}
            decays = [self.weight_decay if id(p) in decayed_ones else 0.0 for p in self.params]
            self.own = Update(self.params, list(self.slots.values()), decays, self.lead[0] if self.lead else 1)

    def add_slot(self, kind: str) -> None:
        """State of the parameters' shapes, zero at first."""
        self.slots[kind] = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def keep_narrow(self, copies: Mapping[str, Tensor]) -> None:
        """From now on, write `copies` of parameters too, which are in a narrower type, as their gradients may be."""
        self.narrow = Narrow(dict(zip(self.names, self.params, strict=True)), copies)
        if self.own:
            self.own.keep_narrow([copies.get(name) for name in self.names])

    def compile(self, options: dict[str, Any] | None = None) -> None:
        """Let torch fuse the update into few kernels, where launching kernels is what costs: not on the CPU."""
        if self.device.type != "cpu" and not self.own:
            self.compiled = compiled(self._scaled_update, options=options)

    def _scaled_update(self, grads: list[Tensor], scale: Tensor | None, norms: Tensor | None, *scalars: Tensor) -> None:
        grads = wide_like(self.params, grads)
        if scale is not None:
            # A compiler scales where a gradient is read; otherwise another set of gradients would have to be held.
            if torch.compiler.is_compiling():
                grads = scaled(grads, scale)
            else:
                scaled_(grads, scale)
            # Rounded once more than the norms of what is scaled, which costs a pass over it: not much on a CPU.
            norms = None if norms is None or self._is_exact else norms * scale.unsqueeze(-1)
        self.update(grads, norms, *scalars)
        self.narrow.update()

    @property
    def _is_exact(self) -> bool:
        """Whether norms are taken of the scaled gradients: not where a rank has a share of each."""
        return self.device.type == "cpu" and self.shards is None

    def step(self, grads: list[Tensor], lr: float) -> None:
        """Update the parameters with gradients in the order of the table."""
        self.apply(grads, upload(self.next_scalars(lr), self.device))

    def next_scalars(self, lr: float) -> Tensor:
        """Count a step; what changes from one to the next, for `apply`, on the host in double precision."""
        self.t += 1
        return torch.tensor([lr, *self.corrections()], dtype=torch.float64)

    @torch.no_grad()
    def apply(
        self, grads: list[Tensor], scalars: Tensor, scale: Tensor | None = None, norms: Tensor | None = None
    ) -> None:
        """A step on the device alone.

        Args:
            grads: in the order of the table; they may be overwritten.
            scalars: `next_scalars` on the device.
            scale: what the gradients are multiplied by first, a 0-dimensional tensor, or [K].
            norms: of each of the gradients before that, [*lead, parameters], for those who need them.
        """
        update = self.compiled or self._scaled_update
        update(grads, scale, norms, *scalars.float().unbind())

    def decay_weights(self, lr: Tensor) -> None:
        """p <- p (1 - lr weight_decay) for the decay groups."""
        if self.decayed:
            torch._foreach_mul_(self.decayed, 1 - lr * self.weight_decay)

    def corrections(self) -> tuple[float, ...]:
        """c1 and c2 of the specification at step t, in double precision, and what else `update` is given."""
        raise NotImplementedError

    def update(self, grads: list[Tensor], norms: Tensor | None, *scalars: Tensor) -> None:
        """One step; norms are of the gradients, [*lead, parameters], if known, scalars 0-dimensional; in float32."""
        raise NotImplementedError

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Values to log, by bucket."""
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
