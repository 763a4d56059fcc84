"""Dropout whose masks are those of the other backend: a hash of (element, step's key, site)."""

import torch
from torch import Tensor

from lm_core.rng import GOLDEN, threshold

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """`lm_core.reference.dropout.mix` on int64 tensors that hold 32-bit values."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def dropout(x: Tensor, rate: float, key: Tensor | None, site: int) -> Tensor:
    """Drop elements by `lm_core.reference.dropout.keep_mask` and scale up the rest; no key, no dropout.

    Args:
        x: any shape.
        rate: probability of dropping an element.
        key: the step's 32-bit key, an int64 scalar; or [K], one for each x[k].
        site: which dropout of the model this is.
    """
    if key is None or rate == 0:
        return x
    index = torch.arange(x.numel() // key.numel(), device=x.device)
    if len(index) > 1 << 32:
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
