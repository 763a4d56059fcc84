"""Gradient clipping by global norm (Pascanu et al. 2013)."""

import mlx.core as mx

from lm_mlx.optim.base import Arrays


def clip_by_global_norm(grads: Arrays, max_norm: float) -> tuple[Arrays, mx.array, mx.array]:
    """Gradients of a joint norm of at most `max_norm` (0 does not clip).

    Returns:
        `grads` scaled, the joint norm before, and that of each of them, [len(grads)].
    """
    squares = mx.stack([mx.sum(mx.square(g)) for g in grads.values()])
    norm, norms = mx.sqrt(mx.sum(squares)), mx.sqrt(squares)
    if not max_norm:
        return grads, norm, norms
    scale = mx.minimum(1.0, max_norm / (norm + 1e-6))
    return {name: g * scale for name, g in grads.items()}, norm, norms
