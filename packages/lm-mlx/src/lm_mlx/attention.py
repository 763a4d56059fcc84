"""Multi-head attention with rotary positions.

    x --q_proj, k_proj, v_proj--> heads --rotate--> scaled_dot_product_attention --o_proj--> y

Axes: B batch, T time, D model, N heads, K kv heads, H head.
"""

import mlx.core as mx
from mlx import nn

from lm_mlx import fused
from lm_mlx.dropout import Dropping
from lm_mlx.layers import Kernels, Linear
from lm_mlx.scratch import widened

Offset = int | mx.array
"""The position of the first id that is read: of all rows, or of each row, [B]."""


def angles(offset: Offset, length: int, half: int, theta: float) -> tuple[mx.array, mx.array]:
    """Cosines and sines of the rotary angles at `length` positions from `offset`: [T, half], or [B, 1, T, half]."""
    times = mx.arange(length)
    return angles_at(times + offset if isinstance(offset, int) else times + offset[:, None, None], half, theta)


def angles_at(positions: mx.array, half: int, theta: float, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array]:
    """Cosines and sines of the rotary angles at `positions` [..., T]: [..., T, half]."""
    rates = mx.power(theta, -mx.arange(half, dtype=dtype) / half)
    turns = positions.astype(dtype)[..., None] * rates
    return mx.cos(turns), mx.sin(turns)


def turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x [..., T, H] with element i turned with element i + H/2."""
    a, b = mx.split(widened(x), 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def rotate(x: mx.array, offset: Offset = 0, theta: float = 10000.0, positions: mx.array | None = None) -> mx.array:
    """Rotary positions (Su et al. 2021): element i turns with element i + H/2.

    Args:
        x: [..., T, H]; with an offset or positions for each row, [B, N, T, H].
        offset: the position of the first of the T.
        theta: base of the wavelengths.
        positions: of each of the T, [T] or [B, T], in place of an offset.
    """
    if positions is None:
        times = mx.arange(x.shape[-2])
        positions = times + offset if isinstance(offset, int) else times + offset[:, None]
    if positions.ndim == 2:
        positions = positions[:, None]  # the heads of a row are turned alike
    return turn(x, *angles_at(positions, x.shape[-1] // 2, theta, widened(x).dtype))


def packed(starts: mx.array) -> tuple[mx.array, mx.array]:
    """Positions [B, T] and mask [B, 1, T, T] of documents that share a row.

    Args:
        starts: where the document of each token starts, [B, T] (`lm_core.model.positions.document_starts`).

    Returns:
        The distance of each token from there, and what it sees: its document from there to itself.
    """
    times = mx.arange(starts.shape[-1])
    seen = (starts[..., None] <= times) & (times <= times[:, None])
    return times - starts, seen[:, None]


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
        dtype: mx.Dtype = mx.float32,
    ):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads or n_heads, d_model // n_heads
        self.rope_theta, self.dropout_rate, self.kernels = rope_theta, dropout_rate, kernels
        kv_dim = self.n_kv_heads * self.head_dim
        self.q_proj = Linear(d_model, d_model, bias, kernels, dtype)
        self.k_proj = Linear(d_model, kv_dim, bias, kernels, dtype)
        self.v_proj = Linear(d_model, kv_dim, bias, kernels, dtype)
        self.o_proj = Linear(d_model, d_model, bias, kernels, dtype)

    def __call__(
        self,
        x: mx.array,
        key: mx.array | None = None,
        site: int = 0,
        positions: mx.array | None = None,
        mask: mx.array | None = None,
    ) -> mx.array:
        """[B, T, D] -> [B, T, D].

        Args:
            x: what goes in.
            key: the step's dropout key; without one nothing is dropped.
            site: which dropout of the model this is.
            positions: of each of the T, [T] or [B, T], where they are rotary; from 0 on by default. They change no
                order: query t sees the keys 0 to t.
            mask: bool, broadcast to [B, N, T, T], True where a query may see a key, in place of those 0 to t.
        """
        q, k, v = self.queries_keys_values(x, positions)
        drop = Dropping(self.dropout_rate, key, site) if key is not None and self.dropout_rate else None
        mixed = self.kernels.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, drop=drop)
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(x.shape))

    def queries_keys_values(
        self, x: mx.array, positions: mx.array | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """[B, T, D] -> queries [B, N, T, H], keys and values [B, K, T, H], turned where positions are rotary."""
        q = self._heads(self.q_proj(x), self.n_heads)
        k = self._heads(self.k_proj(x), self.n_kv_heads)
        v = self._heads(self.v_proj(x), self.n_kv_heads)
        if self.rope_theta is not None:
            q, k = (rotate(a, 0, self.rope_theta, positions) for a in (q, k))
        return q, k, v

    def _heads(self, x: mx.array, count: int) -> mx.array:
        """[B, T, count H] -> [B, count, T, H]."""
        return x.reshape(x.shape[0], x.shape[1], count, self.head_dim).transpose(0, 2, 1, 3)
