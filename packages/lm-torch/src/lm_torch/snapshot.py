"""Host copies of a trainer's tensors, taken between two steps and read by another thread.

    tensors --copy--> buffers that are kept from one snapshot to the next --no copy--> numpy arrays

The buffers are made once: memory that the system has not yet handed out costs several times what the copy does. On a
GPU they are pinned, and where there is room the tensors are copied on the device first, which takes a fiftieth of the
time: the next step waits for that copy alone, and the one to the host runs beside it on a stream of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

ROOM = 16
"""The part of a GPU's memory, one in so many, that a copy on the device may take."""


class HostCopies:
    """The buffers for one set of tensors. A copy is valid until the next is taken."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.staged: dict[str, Tensor] = {}
        """Copies on the device, of those that are there; empty where there is no room."""
        self.stream: torch.cuda.Stream | None = None

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, NDArray[Any]]]:
        """Copy `tensors`, always of the same names and shapes; returns what reads the copies, on any thread."""
        on_gpu = {name: t for name, t in tensors.items() if t.device.type == "cuda"}
        if not self.buffers:
            self.buffers = {
                name: torch.empty(t.shape, dtype=t.dtype, pin_memory=name in on_gpu) for name, t in tensors.items()
            }
            if on_gpu:
                self.stream = torch.cuda.Stream()
                self.staged = _copies_on_device(on_gpu)
        copied = self._from_gpu(on_gpu) if on_gpu else None
        rest = {name: t for name, t in tensors.items() if name not in on_gpu}
        if rest:
            torch._foreach_copy_([self.buffers[name] for name in rest], list(rest.values()))

        def read() -> dict[str, NDArray[Any]]:
            if copied is not None:
                copied.synchronize()
            return {name: buffer.numpy() for name, buffer in self.buffers.items()}

        return read

    def _from_gpu(self, tensors: dict[str, Tensor]) -> torch.cuda.Event:
        assert self.stream is not None
        training = torch.cuda.current_stream()
        training.wait_stream(self.stream)  # the copy before this one has left the device
        if self.staged:
            torch._foreach_copy_(list(self.staged.values()), list(tensors.values()))
        self.stream.wait_stream(training)
        copied = torch.cuda.Event()
        with torch.cuda.stream(self.stream):
            for name, tensor in (self.staged or tensors).items():
                self.buffers[name].copy_(tensor, non_blocking=True)
            copied.record()
        if not self.staged:
            training.wait_stream(self.stream)  # the next step changes them
        return copied


def _copies_on_device(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return {name: torch.empty_like(t) for name, t in tensors.items()} if ROOM * size <= total else {}
