"""Softmax and cross-entropy of a chunk of logits in one kernel, for the loss of an output head.

    nats = softmax_cross_entropy_(logits, targets, scale)      logits now holds (softmax - onehot) * scale

How to call it: make logits [rows, V] with `linear`, in float32 or bfloat16 and in one piece; call this if
`kernels.usable(logits)`; then multiply `logits`, which now is its own gradient, into the gradients of x and weight. It
reads the logits from memory once and writes them once. Sums are made in float32, and ids of a padded vocabulary are ids
like others. It has no gradient of its own: call it where none is recorded, in the `forward` of an autograd.Function.
In a compiled graph it is one operator that changes its argument. `logits` must be nobody else's: a fresh product.

Axes: V vocabulary.
"""

import torch
from torch import Tensor

WARPS = 16
TILE = 16384
"""Logits at a time."""


def softmax_cross_entropy_(
    logits: Tensor, targets: Tensor, scale: Tensor | None = None, differentiated: bool = True
) -> Tensor:
    """The loss of each row in nats, and the gradient of the logits in their place.

    Args:
        logits: [rows, V], float32 or bfloat16; overwritten by (softmax(logits) - onehot(targets)) * scale.
        targets: [rows], integers below V.
        scale: [rows], float32: a factor of each row's gradient, not of its loss; None is 1.
        differentiated: False leaves the logits as they are.

    Returns:
        [rows], float32, without `scale`.
    """
    losses: Tensor = torch.ops.lm_torch.softmax_cross_entropy_(logits, targets, scale, differentiated)
    return losses


@torch.library.custom_op("lm_torch::softmax_cross_entropy_", mutates_args=("logits",))
def _softmax_cross_entropy(logits: Tensor, targets: Tensor, scale: Tensor | None, differentiated: bool) -> Tensor:
    from lm_torch.kernels.programs import cross_entropy as programs

    if logits.stride(1) != 1:
        raise ValueError(f"logits must be contiguous along the vocabulary, but have strides {logits.stride()}")
    losses = _empty_losses(logits, targets, scale, differentiated)
    wide = 32 * WARPS * 16 // logits.element_size()  # 16 bytes a thread
    programs.softmax_cross_entropy[(len(logits),)](
        logits, targets, scale, losses, logits.shape[1], logits.stride(0), differentiated, scale is not None,
        max(1, TILE // wide), wide, num_warps=WARPS,
    )  # fmt: skip
    return losses


def _empty_losses(logits: Tensor, targets: Tensor, scale: Tensor | None, differentiated: bool) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.float32)


_softmax_cross_entropy.register_fake(_empty_losses)
