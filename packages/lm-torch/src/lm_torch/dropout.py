"""Dropout whose masks are those of the other backend: a hash of (element, step's key, site)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.rng import GOLDEN, threshold

_MASK = 0xFFFFFFFF
_ROUNDS = (16, 0x7FEB352D), (15, 0x846CA68B)
_LAST_SHIFT = 16
_PART = 1 << 15
"""Elements that a CPU hashes at once: what is made of them on the way stays in a core's cache."""


def part_key(key: int, part: int) -> int:
    """The key of one of the equal parts of a batch, as a rank has it.

    The step's key lies in the low 32 bits, and the number of the part above them: a part's elements are counted on from
    those of the parts before it, so the masks are those of the whole batch.
    """
    return key | part << 32


def _mix(x: Tensor) -> Tensor:
    """`lm_core.reference.dropout.mix` on int64 tensors that hold 32-bit values."""
    for shift, factor in _ROUNDS:
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> _LAST_SHIFT)


def _mix_(x: NDArray[np.uint32], shifted: NDArray[np.uint32]) -> None:
    """The same in place; `shifted` is room for as many numbers."""
    for shift, factor in _ROUNDS:
        x ^= np.right_shift(x, shift, out=shifted)
        x *= np.uint32(factor)
    x ^= np.right_shift(x, _LAST_SHIFT, out=shifted)


def factors(shape: Sequence[int], rate: float, key: Tensor, site: int, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by, on a CPU: 0 where an element is dropped, else 1 / (1 - rate).

    torch's operators would write each step of the hash to memory: numpy, in parts, takes a twentieth of their time.
    """
    keys, count = key.reshape(-1).tolist(), torch.Size(shape).numel() // key.numel()
    wide = np.float64 if dtype == torch.float64 else np.float32
    result = np.empty((len(keys), count), wide)
    least, scale = np.uint32(threshold(rate)), wide(1 / (1 - rate))
    site_keys = np.array([(one + site * GOLDEN) & _MASK for one in keys], np.uint32)
    first = (keys[0] >> 32) * count  # 0 where there are several
    _mix_(site_keys, np.empty_like(site_keys))
    indices = np.arange(min(count, _PART), dtype=np.uint32)
    index, bits, shifted = (np.empty_like(indices) for _ in range(3))
    for start in range(0, count, _PART):
        size = min(_PART, count - start)
        np.add(indices, np.uint32((first + start) & _MASK), out=index)
        _mix_(index, shifted)
        for row, site_key in zip(result, site_keys, strict=True):
            np.add(index, site_key, out=bits)
            _mix_(bits, shifted)
            np.multiply(bits[:size] >= least, scale, out=row[start : start + size])
    return torch.from_numpy(result).view(shape).to(dtype)


def dropout(x: Tensor, rate: float, key: Tensor | None, site: int) -> Tensor:
    """Drop elements by `lm_core.reference.dropout.keep_mask` and scale up the rest; no key, no dropout.

    Args:
        x: any shape.
        rate: probability of dropping an element.
        key: the step's 32-bit key, an int64 scalar, see `part_key`; or [K], one for each x[k].
        site: which dropout of the model this is.
    """
    if key is None or rate == 0:
        return x
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return x * factors(x.shape, rate, key, site, x.dtype)
    index = torch.arange(x.numel() // key.numel(), device=x.device)
    if not key.ndim:
        index = (index + (key >> 32) * len(index)) & _MASK
    elif len(index) > 1 << 32:
        index &= _MASK
    bits = _mix((_mix(index) + _mix((key.unsqueeze(-1) + site * GOLDEN) & _MASK)) & _MASK)
    return torch.where((bits >= threshold(rate)).view(x.shape), x / (1 - rate), 0.0)


class Dropping:
    """`dropout` at one site of one step, as a function of x alone; a kernel that drops by itself reads the numbers."""

    def __init__(self, rate: float, key: Tensor, site: int):
        self.rate, self.key, self.site = rate, key, site

    def __call__(self, x: Tensor) -> Tensor:
        """`dropout(x, rate, key, site)`."""
        return dropout(x, self.rate, self.key, self.site)

    def factors(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The `factors` of a tensor, on a CPU."""
        return factors(shape, self.rate, self.key, self.site, dtype)
