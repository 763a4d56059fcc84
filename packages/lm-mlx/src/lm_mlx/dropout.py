"""Dropout whose masks are those of the other backend: a hash of (element, step's key, site)."""

import mlx.core as mx

from lm_core.rng import GOLDEN, threshold


def _mix(x: mx.array) -> mx.array:
    """`lm_core.reference.dropout.mix` on uint32."""
    x = (x ^ (x >> 16)) * mx.array(0x7FEB352D, mx.uint32)
    x = (x ^ (x >> 15)) * mx.array(0x846CA68B, mx.uint32)
    return x ^ (x >> 16)


def dropout(x: mx.array, rate: float, key: mx.array | None, site: int) -> mx.array:
    """Drop elements by `lm_core.reference.dropout.keep_mask` and scale up the rest; no key, no dropout.

    Args:
        x: any shape.
        rate: probability of dropping an element.
        key: the step's 32-bit key, a uint32 scalar; or with the number of one of the equal parts of a batch, as a rank
            has it, [key, part]: its elements are counted on from those of the parts before.
        site: which dropout of the model this is.
    """
    if key is None or rate == 0:
        return x
    key, part = (key, 0) if key.ndim == 0 else (key[0], key[1])
    site_key = _mix(key + mx.array((site * GOLDEN) & 0xFFFFFFFF, mx.uint32))
    index = mx.arange(x.size, dtype=mx.uint32)
    if isinstance(part, mx.array):
        index = index + part * mx.array(x.size & 0xFFFFFFFF, mx.uint32)
    bits = _mix(_mix(index) + site_key)
    keep = (bits >= mx.array(threshold(rate), mx.uint32)).reshape(x.shape)
    return mx.where(keep, x / (1 - rate), mx.zeros_like(x))


class Dropping:
    """`dropout` at one site of one step, as a function of x alone."""

    def __init__(self, rate: float, key: mx.array, site: int):
        self.rate, self.key, self.site = rate, key, site

    def __call__(self, x: mx.array) -> mx.array:
        """`dropout(x, rate, key, site)`."""
        return dropout(x, self.rate, self.key, self.site)
