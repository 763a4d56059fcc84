"""Gradient clipping by global norm (Pascanu et al. 2013)."""

from collections.abc import Callable

import torch
from torch import Tensor


def clip_by_global_norm(
    grads: list[Tensor],
    max_norm: float,
    lead: torch.Size | tuple[int, ...] = (),
    across: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Norms, and the factor that shortens gradients to a joint norm of at most `max_norm` (0 does not clip).

    Args:
        grads: gradients; with `lead`, of so many models, the first axis.
        max_norm: the longest that they are together.
        lead: (), or (K,), and then each of the K is clipped alone.
        across: from the norms of the shares that this rank has to those of all of each.

    Returns:
        The joint norm, `lead`, that of each of them, [*lead, len(grads)], and what they are to be multiplied by, at
        most 1, `lead`: the optimizer does that where it reads them. None where nothing is clipped.
    """
    norms = norms_of(grads, lead)
    norms = across(norms) if across else norms
    norm = torch.linalg.vector_norm(norms, dim=-1)
    return norm, norms, (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm else None


def norms_of(grads: list[Tensor], lead: torch.Size | tuple[int, ...] = ()) -> Tensor:
    """The norm of each in float32, [*lead, len(grads)], by one call for each type that there is."""
    parts = [part for grad in grads for part in grad.unbind()] if lead else grads
    norms: list[Tensor] = [*parts]
    for dtype in dict.fromkeys(part.dtype for part in parts):
        places = [i for i, part in enumerate(parts) if part.dtype == dtype]
        wide = None if dtype == torch.float32 else torch.float32
        for i, norm in zip(places, torch._foreach_norm([parts[i] for i in places], dtype=wide), strict=True):
            norms[i] = norm
    return torch.stack(norms).view(len(grads), *lead).t() if lead else torch.stack(norms)


def spread(factors: Tensor, tensor: Tensor) -> Tensor:
    """Factors [K], each for its part of the first axis of the tensor, in a shape that multiplies it; one, as it is."""
    return factors.view(-1, *(1,) * (tensor.ndim - 1)) if factors.ndim else factors


def scaled_(tensors: list[Tensor], factors: Tensor) -> None:
    """Multiply tensors in place by one factor, or by one for each part of the first axis, [K]."""
    torch._foreach_mul_(tensors, [spread(factors, x) for x in tensors] if factors.ndim else factors)


def scaled(tensors: list[Tensor], factors: Tensor) -> list[Tensor]:
    """The same, as new tensors."""
    return list(torch._foreach_mul(tensors, [spread(factors, x) for x in tensors] if factors.ndim else factors))
