"""The operations of `scratch`, under the same names, on the framework's fused kernels."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_torch import batched_attention, bfloat16, kernels, onednn, scratch
from lm_torch.dropout import Dropping
from lm_torch.kernels import attention as flash
from lm_torch.kernels import gelu_product
from lm_torch.kernels.cross_entropy import softmax_cross_entropy_
from lm_torch.kernels.gelu import bias_gelu
from lm_torch.products import add_product_

LOGITS_BYTES = 1 << 26
"""Bytes of logits that `linear_cross_entropy`, `linear_token_losses` and `linear_token_marks` hold at a time."""
GPU_LOGITS_BYTES = 1 << 31
"""The same on a GPU, where each time the head's weights and their gradient are read again, which takes as long as some
thousand rows do."""
_TILE = 128
"""Rows that a GPU multiplies at once."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `scratch.linear`."""
    if onednn.is_better(x, weight):
        return onednn.linear(x, weight, bias)
    if bfloat16.is_widened(x) and x.numel() > x.shape[-1]:
        return linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.linear(x, weight, bias)


embedding = F.embedding


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """See `scratch.softmax`."""
    return F.softmax(scratch.widened(x), dim=axis)


silu = F.silu
gelu = F.gelu


def gelu_tanh(x: Tensor) -> Tensor:
    """See `scratch.gelu_tanh`."""
    return F.gelu(x, approximate="tanh")


def gelu_mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, tanh: bool
) -> Tensor:
    """See `scratch.gelu_mlp`; on a GPU the bias and its gradient go with the nonlinearity, in one pass each way, and
    where the products are large and that is faster, both go with the products."""
    if not kernels.usable(x):
        y = linear(x, up, up_bias)
        return linear(gelu_tanh(y) if tanh else gelu(y), down, down_bias)
    if gelu_product.usable(x, up, down):
        return gelu_product.mlp(x, up, up_bias, down, down_bias, tanh)
    return linear(bias_gelu(linear(x, up), up_bias, tanh), down, down_bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `scratch.rms_norm`."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `scratch.layer_norm`."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """See `scratch.scaled_dot_product_attention`; flash attention (Dao 2023) where torch has it.

    torch's kernel draws dropout masks of its own, and ours are the other backend's too: a kernel of this project makes
    them where it can, and elsewhere the operations are spelled out.
    """
    if bfloat16.is_widened(q):
        wide = scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, is_causal, drop)
        return wide.to(q.dtype)
    if is_causal and mask is None and (drop is None or isinstance(drop, Dropping)):
        if drop and kernels.usable(q) and flash.usable(q, k, v):
            return flash.attention(q, k, v, drop)
        if q.shape == k.shape and batched_attention.is_better(q, drop):
            return batched_attention.causal_attention(q, k, v, drop)
    if drop is not None:
        return scratch.scaled_dot_product_attention(q, k, v, mask, is_causal, drop)
    if is_causal and mask is not None:  # the kernel takes one of the two
        past = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask, is_causal = mask & past, False
    grouped = q.ndim > 2 and k.shape[-3] != q.shape[-3]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """See `scratch.token_losses`."""
    flat = scratch.widened(logits).reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, targets.reshape(-1), reduction="none").view(targets.shape)


def token_marks(logits: Tensor, targets: Tensor) -> Tensor:
    """See `scratch.token_marks`; log sum exp of the logits is the loss and the target's logit."""
    logits = scratch.widened(logits)
    losses, chosen = token_losses(logits, targets), logits.gather(-1, targets.unsqueeze(-1))
    rank = logits.shape[-1] - 1 - torch.count_nonzero(logits < chosen, dim=-1)
    confidence = (logits.amax(dim=-1) - chosen.squeeze(-1) - losses).exp()
    return torch.stack([losses, rank.to(logits.dtype), confidence])


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """See `scratch.cross_entropy`."""
    if weights is not None:
        return (token_losses(logits, targets) * weights).mean()
    return F.cross_entropy(scratch.widened(logits).reshape(-1, logits.shape[-1]), targets.reshape(-1))


def linear_token_losses(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """See `scratch.linear_token_losses`; without gradients, the logits of some tokens at a time are held."""
    parts = [token_losses(logits, flat) for logits, flat in _some_at_a_time(x, weight, bias, targets)]
    return torch.cat(parts).view(targets.shape)


def linear_token_marks(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """See `scratch.linear_token_marks`; the logits of some tokens at a time."""
    parts = [token_marks(logits, flat) for logits, flat in _some_at_a_time(x, weight, bias, targets)]
    return torch.cat(parts, dim=-1).view(3, *targets.shape)


def _some_at_a_time(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [rows, V] and targets [rows] of a head."""
    rows, flat, chunk = x.reshape(-1, x.shape[-1]), targets.reshape(-1), _rows_at_a_time(targets.numel(), weight)
    for i in range(0, len(rows), chunk):
        yield linear(rows[i : i + chunk], weight, bias), flat[i : i + chunk]


def _rows_at_a_time(rows: int, weight: Tensor) -> int:
    if not weight.is_cuda:
        return max(1, LOGITS_BYTES // (4 * weight.shape[0]))
    most = max(1, GPU_LOGITS_BYTES // (weight.element_size() * weight.shape[0]))
    if rows <= most:
        return rows
    pieces = -(-rows // most)  # of about one size
    return min(most, -(-rows // (pieces * _TILE)) * _TILE)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """See `scratch.linear_cross_entropy`; the logits of some tokens at a time, then their gradient in their place.

    The gradients are made in the forward pass, while the logits are there: the backward pass only scales them. So a
    graph that is retained may be gone through again, and the gradient of a gradient is refused: `scratch` has it, and
    that by the targets' weights.
    """
    if weights is not None and weights.requires_grad:
        raise NotImplementedError(
            "the fused loss has no gradient by the targets' weights: detach them, or use kernels = scratch"
        )
    rows, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    column = None if weights is None else weights.reshape(-1, 1)
    loss: Tensor = _HeadLoss.apply(rows, weight, bias, targets, column, torch.is_grad_enabled())
    return loss


class _HeadLoss(torch.autograd.Function):
    """x [rows, D], targets' weights [rows, 1] -> mean loss, with the gradients of x, weight and bias at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
        tracked: bool,
    ) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x.device)
        dx, dweight, dbias = torch.empty_like(x) if tracked else None, None, None
        chunk = _rows_at_a_time(len(x), weight)
        several = len(x) > chunk
        for start in range(0, len(x), chunk):
            part, target = x[start : start + chunk], targets[start : start + chunk, None]
            scale = None if weights is None else weights[start : start + chunk]
            losses, dlogits = _softmax_cross_entropy(linear(part, weight, bias), target, scale, tracked)
            total += (losses if scale is None else losses * scale).sum()
            if dx is None:
                continue
            # The mean's 1 / rows goes into the factors, which are smaller than the logits.
            torch.div(_input_gradient(dlogits, weight), len(x), out=dx[start : start + chunk])
            dweight = _plus_product(dweight, dlogits, part / len(x)) if several else _product(dlogits, part / len(x))
            if bias is not None:
                more = dlogits.sum(dim=0) / len(x)
                dbias = _wide_sum(dbias, more) if several else more
        if tracked:
            # Not save_for_backward, which would hold on to them while autograd adds to them: with tied embeddings
            # the sum of the two gradients is then made in place.
            ctx.gradients = dx, _like(weight, dweight), _like(bias, dbias)
        return total / len(x)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        compiling = torch.compiler.is_compiling()
        if onednn.differentiated_again():
            raise NotImplementedError(
                "the fused loss has no gradient of its gradient (create_graph): use kernels = scratch, or"
                " lm_torch.scratch.linear_cross_entropy"
            )
        gradients, kept = ctx.gradients, not compiling and _graph_is_kept()
        if gradients is None:
            raise RuntimeError("a second backward through the fused loss: give the first one retain_graph=True")
        if not kept:
            ctx.gradients = None
        # It is 1 without accumulation. To read it would make a GPU wait, and a compiler give up.
        if compiling or dloss.device.type != "cpu" or dloss.item() != 1:
            gradients = [None if g is None else g * dloss.to(g.dtype) for g in gradients]
        elif kept:
            gradients = [None if g is None else g.clone() for g in gradients]
        return (*gradients, None, None, None)


def _graph_is_kept() -> bool:
    """Whether the backward pass that is on may be followed by another; torch's compiler asks the same way."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else bool(asked())


def _softmax_cross_entropy(
    logits: Tensor, targets: Tensor, scale: Tensor | None, tracked: bool
) -> tuple[Tensor, Tensor]:
    """The loss of each row without its scale, [rows, 1], and the gradient of the logits with it, in their type.

    The logits may be overwritten; the gradient is right only where it is tracked.
    """
    if kernels.usable(logits):
        factor = None if scale is None else scale[:, 0]
        return softmax_cross_entropy_(logits, targets[:, 0], factor, tracked)[:, None], logits
    wide = torch.promote_types(logits.dtype, torch.float32)
    scores = F.log_softmax(logits, dim=1, dtype=wide)
    losses = -scores.gather(1, targets)
    if not tracked:
        return losses, logits
    # p - onehot, in place.
    dlogits = scores.exp_().scatter_add_(1, targets, torch.full_like(targets, -1, dtype=wide))
    return losses, (dlogits if scale is None else dlogits.mul_(scale)).to(logits.dtype)


def _input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """dy W: dy [rows, n], weight [n, m] -> [rows, m]."""
    return onednn.input_gradient(dy, weight) if onednn.is_better(dy, weight.t()) else linear(dy, weight.t())


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b: a [rows, n], b [rows, m] -> [n, m]."""
    return onednn.weight_gradient(a, b) if onednn.is_better(a.t(), b.t()) else linear(a.t(), b.t())


def _plus_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a^T b, in float32 at least: a sum of many parts in bfloat16 would lose the last ones."""
    if not a.is_cuda:
        return _wide_sum(total, _product(a, b))
    if total is None:
        total = a.new_empty(a.shape[1], b.shape[1], dtype=torch.promote_types(a.dtype, torch.float32))
        add_product_(total, a, b, keep=False)
    else:
        add_product_(total, a, b)
    return total


def _wide_sum(total: Tensor | None, more: Tensor) -> Tensor:
    return scratch.widened(more) if total is None else total.add_(more)


def _like(parameter: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    return None if parameter is None or gradient is None else gradient.to(parameter.dtype)
