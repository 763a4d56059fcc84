"""What a step frees on the CPU stays with the process, for the next step to take: for large models.

The C library of Linux gives every large block back to the system when it is freed, and the system clears each page anew
when the next step takes it. A virtual machine's host may have taken it back meanwhile, which costs more. With 124 M
parameters, whose gradients alone are 500 MB, that was a sixth of a step; kept, they need up to a tenth more memory. In
a small model the activations are what is large, and then two fifths more (docs/benchmarks.md).
"""

import ctypes
import os
import sys
from functools import cache

# <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1

SMALLEST = 1 << 26
"""Parameters from which what is freed is kept."""

_USERS_OWN = "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"


def pays_to_keep(parameters: int) -> bool:
    """Whether a step of that many parameters is worth the memory."""
    return parameters >= SMALLEST


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks, of all of the process; whether it does so.

    Not where the user has set it by its own variables, and not where it is not glibc, whose calls these are.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc" in tunables or any(name in os.environ for name in _USERS_OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # No block comes from a mapping of its own, which its end would undo; and the heap never shrinks.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
