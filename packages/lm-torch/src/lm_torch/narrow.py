"""Weights in the type of the activations, beside those in float32 that the optimizer changes.

    float32 parameter --optimizer--> float32 parameter --copied--> narrow parameter of a module --> forward, backward
                            ^----------------------- gradient, narrow -----------------------------'

A layer casts a weight where it uses it. On a GPU that is a kernel for each weight and use, and another for each
gradient, which at a small model takes longer than the layer's products; one copy of all weights after the update does
the same. The values are the same, and so are the gradients: a layer rounds its weight's gradient to the type of the
activations in either case.

Embeddings are read in float32, so they stay as they are.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lm_torch.layers import LayerNorm, Linear, RMSNorm
from lm_torch.model import LanguageModel


def narrowed(model: LanguageModel) -> dict[str, Tensor]:
    """Replace the parameters that are only ever cast by copies in the type of the activations; those, by name."""
    copies: dict[str, Tensor] = {}
    for place, module in model.named_modules():
        if isinstance(module, Linear | LayerNorm | RMSNorm):
            for name, parameter in list(module.named_parameters(recurse=False)):
                copy = nn.Parameter(parameter.detach().to(model.dtype))
                setattr(module, name, copy)
                copies[f"{place}.{name}"] = copy
    return copies


class Narrow:
    """The copies of some of the parameters, and where they come from."""

    def __init__(self, params: Mapping[str, Tensor], copies: Mapping[str, Tensor]):
        self.copies = [copies[name] for name in params if name in copies]
        self.sources = [params[name] for name in params if name in copies]

    @torch.no_grad()
    def update(self) -> None:
        """Copy what the parameters have become."""
        if self.copies:
            torch._foreach_copy_(self.copies, self.sources)


def wide_like(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The gradients in the type of their parameters."""
    if all(grad.dtype == param.dtype for param, grad in zip(params, grads, strict=True)):
        return grads
    if torch.compiler.is_compiling():  # a compiler casts where it reads
        return [grad.to(param.dtype) for param, grad in zip(params, grads, strict=True)]
    wide = [grad if grad.dtype == p.dtype else torch.empty_like(p) for p, grad in zip(params, grads, strict=True)]
    pairs = [(to, grad) for to, grad in zip(wide, grads, strict=True) if to is not grad]
    torch._foreach_copy_([to for to, _ in pairs], [grad for _, grad in pairs])
    return wide
