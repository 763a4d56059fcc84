"""The MLX backend.

Reading order: blas, scratch -> layers -> attention, gradient_checkpointing, model -> optim -> step (the trainer)
-> inference, decode -> backend.
`fused` is `scratch` made fast. `lm_torch` is its twin.
"""

from lm_mlx.blas import DESCRIPTION as BLAS

# Importing any module of this package has come past here, so OpenBLAS is loaded before mlx.core.
__all__ = ["BLAS"]
