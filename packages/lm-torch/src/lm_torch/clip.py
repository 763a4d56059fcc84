"""Gradient clipping by global norm (Pascanu et al. 2013)."""

import torch
from torch import Tensor


def clip_by_global_norm(grads: list[Tensor], max_norm: float) -> tuple[Tensor, Tensor]:
    """Scale `grads` in place to a joint norm of at most `max_norm` (0 does not clip).

    Returns:
        The joint norm before, and that of each of them, [len(grads)].
    """
    norms = torch.stack(torch._foreach_norm(grads))
    norm = torch.linalg.vector_norm(norms)
    if max_norm:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm, norms
