"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): keep each block's input, compute the rest again.

    forward:   x --block--> y                          kept: x [B, T, D]
    backward:  x, after the gradient of y --block--> y, then back through it

`nn.utils.checkpoint` does the same, but leaves in the block what it was last called with: arrays of the backward pass,
which an update would then start from.
"""

from typing import Any

import mlx.core as mx
from mlx import nn


def checkpointed(block: nn.Module, x: mx.array, *constants: mx.array | None) -> mx.array:
    """block(x, *constants), whose activations are computed again for the gradients.

    Dropout's masks follow from a key among the constants, so they are the same both times.
    """
    own = block.parameters()

    def run(parameters: Any, x: mx.array) -> mx.array:
        # The parameters must come in as arguments: gradients go to those alone.
        block.update(parameters)
        y: mx.array = block(x, *constants)
        block.update(own)
        return y

    y: mx.array = mx.checkpoint(run)(own, x)
    return y
