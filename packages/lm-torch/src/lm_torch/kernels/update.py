"""The update of Adam or Kourkoutas-beta in one pass: gradients as they are, parameters, state and narrow copies.

torch's own fused update takes gradients in the type of the parameters alone, and its compiler needs a minute for one
that does not. This reads and writes 28 bytes for a parameter whose gradient is in bfloat16, and needs no compiler.

The tables of addresses are made once; those of the gradients are written by kernels whose arguments they are, so that a
CUDA graph holds them.

Axes: P parameters, K seeds that are trained together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 2048
"""Elements of a program."""
NOTED = 16
"""Addresses that a kernel takes as arguments."""


class Update:
    """The update of some parameters with their state.

    Args:
        params: [...] each, or [K, ...].
        slots: their m and v, and v_max if there is one.
        decays: weight decay of each.
        seeds: K, or 1.
    """

    def __init__(
        self, params: Sequence[Tensor], slots: Sequence[Sequence[Tensor]], decays: Sequence[float], seeds: int
    ):
        from lm_torch.kernels.programs import update as programs

        self.programs, self.device, self.seeds = programs, params[0].device, seeds
        self.params, self.slots = list(params), [list(slot) for slot in slots]
        self.copies: list[Tensor | None] = [None] * len(self.params)
        self.decays = torch.tensor(decays, dtype=torch.float32, device=self.device)
        self.gradients = torch.zeros(-(-len(self.params) // NOTED) * NOTED, dtype=torch.int64, device=self.device)
        self._address()

    def keep_narrow(self, copies: Sequence[Tensor | None]) -> None:
        """From now on, write copies in bfloat16 too, of those parameters that have one."""
        self.copies = list(copies)
        self._address()

    def _address(self) -> None:
        """Make the tables: what is where, and which program takes what."""
        rows, blocks = [], []
        empty: list[Tensor | None] = [None] * len(self.params)
        kinds = [self.params, *self.slots, *[empty] * (3 - len(self.slots)), self.copies]
        for number, tensors in enumerate(zip(*kinds, strict=True)):
            assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
            addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
            size = self.params[number].numel() // self.seeds
            aligned = size % 8 == 0 and not any(address % 16 for address in addresses)
            rows.append(addresses)
            for seed in range(self.seeds):
                start, end = seed * size, (seed + 1) * size
                blocks += [[number, seed, i, min(i + BLOCK, end), int(aligned)] for i in range(start, end, BLOCK)]
        self.table = torch.tensor(rows, dtype=torch.int64).to(self.device)
        self.blocks = torch.tensor(blocks, dtype=torch.int64).to(self.device)

    def __call__(
        self,
        grads: Sequence[Tensor],
        scalars: Tensor,
        rest: Tensor,
        root: Tensor,
        beta1: float,
        eps: float,
        scale: Tensor | None = None,
        tiny: Tensor | None = None,
        ratio: float | None = None,
        highest_decay: float | None = None,
    ) -> None:
        """A step.

        Args:
            grads: of the shapes of the parameters, in float32 or bfloat16.
            scalars: the learning rate and c1, float32, on the device.
            rest: 1 - beta2, [P] or [K, P].
            root: the square root of c2, alike.
            beta1: of the specification.
            eps: likewise.
            scale: what the gradients are multiplied by first, 0-dimensional or [K].
            tiny: what is added to eps, alike `rest`.
            ratio: to which the step of an element is clipped.
            highest_decay: of v_max.
        """
        whole = [grad.contiguous() for grad in grads]
        noted = [grad.data_ptr() | int(grad.dtype == torch.bfloat16) for grad in whole]
        noted += noted[-1:] * (len(self.gradients) - len(noted))
        for first in range(0, len(noted), NOTED):
            self.programs.note[(1,)](self.gradients, first, *noted[first : first + NOTED], num_warps=1)
        self.programs.update[(len(self.blocks),)](
            self.table, self.gradients, self.blocks, self.decays, scalars,
            scalars if scale is None else scale, rest, root, rest if tiny is None else tiny,
            len(self.params), 1 - beta1, eps, ratio or 0.0, 1.0 if highest_decay is None else highest_decay,
            SCALED=scale is not None, TINY=tiny is not None, HIGHEST=len(self.slots) > 2, CLIPPED=ratio is not None,
            BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
