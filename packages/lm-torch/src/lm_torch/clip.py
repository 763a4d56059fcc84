"""Gradient clipping by global norm (Pascanu et al. 2013)."""

import torch
from torch import Tensor


def clip_by_global_norm(grads: list[Tensor], max_norm: float) -> Tensor:
    """Scale `grads` in place to a joint norm of at most `max_norm` (0 does not clip); returns the norm before."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if max_norm:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
