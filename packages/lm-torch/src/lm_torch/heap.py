"""What a step frees on the CPU stays with the process, for the next step to take: for large models.

The C library of Linux gives every large block back to the system when it is freed, and the system clears each page
again when the next step takes it. A virtual machine's host may have taken it back meanwhile, which costs more. With 124
M parameters, whose gradients alone are 500 MB, that was a sixth of a step of 256 tokens; kept, they need 6% to 12% more
memory. In a small model the activations are what is large, and then two fifths more (docs/benchmarks.md).
"""

import contextlib
import ctypes
import os
import sys
from functools import cache

# <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1

SMALLEST = 1 << 26
"""Parameters of a trainer from which what is freed is kept."""

_USERS_OWN = "mmap_max", "mmap_threshold", "trim_threshold"
"""As GLIBC_TUNABLES names them; or MALLOC_MMAP_MAX_ and so on."""


@cache
def keep_freed_memory() -> None:
    """Have the C library keep freed blocks, of all of the process.

    Not where the user has set any of this by its own variables, and not where it is not glibc, whose calls these are.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(f"malloc.{name}" in tunables or f"MALLOC_{name.upper()}_" in os.environ for name in _USERS_OWN):
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            # No block comes from a mapping of its own, which its end would undo; and the heap never shrinks.
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, NEVER)
