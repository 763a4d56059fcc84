"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): keep each block's input, compute the rest again.

    forward:   x --block, no graph--> y            kept: x [B, T, D]
    backward:  x --block, with its graph--> y, then through that graph and no further

Outside the compiler the twenty lines here stand for `torch.utils.checkpoint`, whose first call imports the compiler:
two seconds and 150 MB, more than a small model saves.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, x: Tensor, *constants: Tensor | None) -> Tensor:
    """block(x, *constants), whose activations are computed again for the gradients.

    Dropout's masks follow from a key among the constants, so they are the same both times. At least x must ask for a
    gradient: the parameters' alone would not be noticed.
    """
    if torch.compiler.is_compiling() or hasattr(block, "unshard"):  # a sharded one gathers its weights by hooks
        y: Tensor = checkpoint(block, x, *constants, use_reentrant=False, preserve_rng_state=False)
    else:
        y = _Checkpointed.apply(x, block, constants)
    return y


class _Checkpointed(torch.autograd.Function):
    """x [B, T, D] -> [B, T, D]. The parameters' gradients are added up in place, as `backward` does everywhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: nn.Module, constants: tuple[Tensor | None, ...]) -> Tensor:
        ctx.block, ctx.constants = block, constants
        ctx.save_for_backward(x)
        y: Tensor = block(x, *constants)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None]:
        if torch.is_grad_enabled() or not torch.autograd._is_checkpoint_valid():
            raise NotImplementedError(
                "gradient checkpointing works with backward() alone, without create_graph and inputs, and not with"
                " autograd.grad: build the model with gradient_checkpointing=False"
            )
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            scalar: Tensor = _Upstream.apply(ctx.block(x, *ctx.constants), dy)
        scalar.backward()
        return x.grad, None, None


class _Upstream(torch.autograd.Function):
    """A scalar whose gradient by y is `dy`: torch imports its compiler where `backward` is given a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, dy: Tensor) -> Tensor:
        ctx.save_for_backward(dy)
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0], None
