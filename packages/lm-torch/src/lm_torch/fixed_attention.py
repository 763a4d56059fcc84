"""Causal attention of a fixed order on a GPU: cuDNN's forward pass, the backward pass of flash attention (Dao 2023).

cuDNN is the faster of the two on Hopper, and its forward pass adds up in one order. torch does not ask it for one on
the way back, and with deterministic algorithms leaves it out altogether. Both keep the same log sums of exponentials,
so one pass may be of each.

Axes: B batch, N heads, T time, H head.
"""

from typing import Any

import torch
from torch import Tensor

from lm_torch.kernels import refuse_second_derivative

USED = False
"""Off until it was timed: docs/benchmarks.md."""
LARGEST, MULTIPLE = 128, 8
"""Of the H that both take."""
BY_CUDNN: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
BY_FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_backward


def usable(q: Tensor, k: Tensor) -> bool:
    """Whether a fixed order is asked for, and there is this one: bfloat16, as many heads of k as of q, on Hopper."""
    if not USED or not q.is_cuda or q.dtype != torch.bfloat16 or q.ndim != 4 or q.shape != k.shape:
        return False
    if not torch.are_deterministic_algorithms_enabled() or q.shape[-1] > LARGEST or q.shape[-1] % MULTIPLE:
        return False
    return torch.cuda.get_device_properties(q.device).major >= 9


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal, without dropout: q, k and v [B, N, T, H] -> [B, N, T, H]."""
    y: Tensor = torch.ops.lm_torch.fixed_attention(q, k, v)[0]
    return y


def _by_time(x: Tensor) -> Tensor:
    """x [B, N, T, H] as it lies in memory on both sides: [B, T, N, H]."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@torch.library.custom_op("lm_torch::fixed_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    y, sums, *_ = BY_CUDNN(q, k, v, None, True, 0.0, True, False)
    return _by_time(y), sums.reshape(q.shape[:-1]).contiguous()


@_attention.register_fake
def _empty(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return _by_time(q.new_empty(q.shape)), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("lm_torch::fixed_attention_backward", mutates_args=())
def _attention_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
    dq, dk, dv = BY_FLASH(dy, q, k, v, y, sums, None, None, q.shape[2], k.shape[2], 0.0, True, of_dropout, of_dropout)
    return _by_time(dq), _by_time(dk), _by_time(dv)


@_attention_backward.register_fake
def _empty_gradients(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _by_time(q.new_empty(q.shape)), _by_time(k.new_empty(k.shape)), _by_time(v.new_empty(v.shape))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    refuse_second_derivative()
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.lm_torch.fixed_attention_backward(dy, *ctx.saved_tensors)
    return gradients


_attention.register_autograd(_gradients, setup_context=_keep)
