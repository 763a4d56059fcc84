"""On Linux, give MLX the system's OpenBLAS.

The Linux wheel of MLX bundles the reference BLAS, whose matrix product is some 25 times slower. A library that is
loaded before it with global symbols answers in its stead, so the package's `__init__` imports this module first.
Set LM_MLX_BLAS=off to keep the wheel's own.
"""

import ctypes
import os
import sys

LIBRARY = "libopenblas.so.0"


def load_openblas() -> str:
    """Load OpenBLAS if there is one; returns what MLX's matrix products on the CPU will use, for the log."""
    if sys.platform != "linux":
        return "the system's BLAS"
    if "mlx.core" in sys.modules:
        return "the BLAS that was loaded before lm_mlx"
    if os.environ.get("LM_MLX_BLAS") == "off":
        return "the wheel's reference BLAS (LM_MLX_BLAS=off)"
    try:
        ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return "the wheel's slow reference BLAS (OpenBLAS, Debian's libopenblas0, makes steps 15x faster)"
    return "the system's OpenBLAS"


DESCRIPTION = load_openblas()
