"""Host copies of a trainer's tensors, taken between two steps and read by another thread.

    tensors --copy--> buffers that are kept from one snapshot to the next --no copy--> numpy arrays

The buffers are made once: memory that the system has not yet handed out costs several times what the copy does. On a
GPU they are pinned, so that the copies run behind the kernels that are in the queue, and reading waits for them alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class HostCopies:
    """The buffers for one set of tensors. A copy is valid until the next is taken."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, NDArray[Any]]]:
        """Copy `tensors`, always of the same names and shapes; returns what reads the copies, on any thread."""
        if not self.buffers:
            self.buffers = {
                name: torch.empty(t.shape, dtype=t.dtype, pin_memory=t.device.type == "cuda")
                for name, t in tensors.items()
            }
        torch._foreach_copy_([self.buffers[name] for name in tensors], list(tensors.values()), non_blocking=True)
        copied = torch.cuda.Event() if any(t.device.type == "cuda" for t in tensors.values()) else None
        if copied is not None:
            copied.record()

        def read() -> dict[str, NDArray[Any]]:
            if copied is not None:
                copied.synchronize()
            return {name: buffer.numpy() for name, buffer in self.buffers.items()}

        return read
