"""Copies from the host to the device and back, without either waiting for the other.

    numpy --pinned copy--> device       the host continues at once
    device --pinned copy, event--> a number that is read later, and waits for its own step alone

A copy from or to ordinary memory makes the host wait. torch keeps pinned memory for the next copy, and gives it out
again only when the device is done with it. On the CPU these are plain copies.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; on the CPU, the same memory."""
    return pinned(values, device).to(device, non_blocking=True)


def pinned(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A tensor on the host from which a copy to the device does not wait."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.pin_memory() if device.type == "cuda" else tensor


Index = int | slice | tuple[int, int | slice]


class Reading:
    """A copy of a tensor on the host, which is under way; what the device does next cannot change it."""

    def __init__(self, values: Tensor):
        on_gpu = values.device.type == "cuda"
        self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_gpu)
        self.values.copy_(values, non_blocking=True)
        self.copied = torch.cuda.Event() if on_gpu else None
        if self.copied is not None:
            self.copied.record()

    def __getitem__(self, index: Index) -> "Lazy":
        """An element, or several, not yet read."""
        return Lazy(self, index)


class Lazy:
    """A part of a `Reading`, which waits for the device only when it is asked for its value."""

    def __init__(self, reading: Reading, index: Index):
        self.reading, self.index = reading, index

    def _read(self) -> Tensor:
        if self.reading.copied is not None:
            self.reading.copied.synchronize()
        return self.reading.values[self.index]

    def __float__(self) -> float:
        return float(self._read())

    def tolist(self) -> list[float]:
        """The values of a slice."""
        values: list[float] = self._read().tolist()
        return values
