"""The MLX backend.

Reading order: blas -> layers -> model -> optim -> step (the trainer) -> decode -> backend. `lm_torch` is its twin.
"""

from lm_mlx.blas import DESCRIPTION as BLAS

# Importing any module of this package has come past here, so OpenBLAS is loaded before mlx.core.
__all__ = ["BLAS"]
