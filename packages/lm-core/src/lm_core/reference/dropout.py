"""Dropout masks from a counter, so that both backends drop the same elements and a resumed run does too.

An element's fate is a hash of its index, the step's 32-bit key and the number of the site (which dropout of the model
it is). The backends compute the same integers on their device. The finalizer is Wellons' `lowbias32` (2018).
"""

import numpy as np
from numpy.typing import NDArray

from lm_core.rng import GOLDEN, threshold


def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijection of 32 bits in which every input bit flips every output bit with probability near 1/2."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return np.asarray(x ^ (x >> np.uint32(16)), dtype=np.uint32)


def keep_mask(shape: tuple[int, ...], key: int, site: int, rate: float) -> NDArray[np.bool_]:
    """True where an element stays; what stays is then divided by 1 - rate."""
    site_key = mix(np.array([(key + site * GOLDEN) & 0xFFFFFFFF], dtype=np.uint32))
    index = np.arange(int(np.prod(shape)), dtype=np.uint32)
    return np.asarray(mix(mix(index) + site_key) >= np.uint32(threshold(rate))).reshape(shape)
