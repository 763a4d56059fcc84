"""Multi-head attention with rotary positions.

    x --q_proj, k_proj, v_proj--> heads --rotate--> scaled_dot_product_attention --o_proj--> y

Axes: B batch, T time, D model, N heads, K kv heads, H head.
"""

from functools import partial

import mlx.core as mx
from mlx import nn

from lm_mlx import fused
from lm_mlx.dropout import dropout
from lm_mlx.layers import Kernels, Linear

Offset = int | mx.array
"""The position of the first id that is read: of all rows, or of each row, [B]."""


def angles(offset: Offset, length: int, half: int, theta: float) -> tuple[mx.array, mx.array]:
    """Cosines and sines of the rotary angles at `length` positions from `offset`: [T, half], or [B, 1, T, half]."""
    times = mx.arange(length, dtype=mx.float32)
    times = times + offset if isinstance(offset, int) else times + offset[:, None, None]
    rates = mx.power(theta, -mx.arange(half, dtype=mx.float32) / half)
    turns = times[..., None] * rates
    return mx.cos(turns), mx.sin(turns)


def turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x [..., T, H] with element i turned with element i + H/2."""
    a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def rotate(x: mx.array, offset: Offset, theta: float) -> mx.array:
    """Rotary positions (Su et al. 2021): element i turns with element i + H/2.

    Args:
        x: [..., T, H]; with an offset for each row, [B, N, T, H].
        offset: the position of the first of the T.
        theta: base of the wavelengths.
    """
    return turn(x, *angles(offset, x.shape[-2], x.shape[-1] // 2, theta))


class Attention(nn.Module):
    """Causal multi-head attention; each kv head serves N / K query heads (Ainslie et al. 2023)."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        bias: bool = True,
        rope_theta: float | None = None,
        dropout_rate: float = 0.0,
        kernels: Kernels = fused,
    ):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads or n_heads, d_model // n_heads
        self.rope_theta, self.dropout_rate, self.kernels = rope_theta, dropout_rate, kernels
        kv_dim = self.n_kv_heads * self.head_dim
        self.q_proj = Linear(d_model, d_model, bias, kernels)
        self.k_proj = Linear(d_model, kv_dim, bias, kernels)
        self.v_proj = Linear(d_model, kv_dim, bias, kernels)
        self.o_proj = Linear(d_model, d_model, bias, kernels)

    def __call__(self, x: mx.array, key: mx.array | None = None, site: int = 0) -> mx.array:
        """[B, T, D] -> [B, T, D].

        Args:
            x: what goes in.
            key: the step's dropout key; without one nothing is dropped.
            site: which dropout of the model this is.
        """
        q = self._heads(self.q_proj(x), self.n_heads)
        k = self._heads(self.k_proj(x), self.n_kv_heads)
        v = self._heads(self.v_proj(x), self.n_kv_heads)
        if self.rope_theta is not None:
            q, k = rotate(q, 0, self.rope_theta), rotate(k, 0, self.rope_theta)
        drop = partial(dropout, rate=self.dropout_rate, key=key, site=site) if key is not None else None
        mixed = self.kernels.scaled_dot_product_attention(q, k, v, is_causal=True, drop=drop)
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(x.shape))

    def _heads(self, x: mx.array, count: int) -> mx.array:
        """[B, T, count H] -> [B, count, T, H]."""
        return x.reshape(x.shape[0], x.shape[1], count, self.head_dim).transpose(0, 2, 1, 3)
