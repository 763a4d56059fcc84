"""Gradient clipping by global norm (Pascanu et al. 2013)."""

import torch
from torch import Tensor


def clip_by_global_norm(grads: list[Tensor], max_norm: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Norms, and the factor that shortens gradients to a joint norm of at most `max_norm` (0 does not clip).

    Returns:
        The joint norm, that of each of them, [len(grads)], and what they are to be multiplied by, at most 1: the
        optimizer does that where it reads them. None where nothing is clipped.
    """
    norms = torch.stack(_norms(grads))
    norm = torch.linalg.vector_norm(norms)
    return norm, norms, (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm else None


def _norms(grads: list[Tensor]) -> list[Tensor]:
    """The norm of each in float32, by one call for each type that there is."""
    norms: list[Tensor] = [*grads]
    for dtype in dict.fromkeys(grad.dtype for grad in grads):
        places = [i for i, grad in enumerate(grads) if grad.dtype == dtype]
        wide = None if dtype == torch.float32 else torch.float32
        for i, norm in zip(places, torch._foreach_norm([grads[i] for i in places], dtype=wide), strict=True):
            norms[i] = norm
    return norms
