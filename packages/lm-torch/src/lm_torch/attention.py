"""Multi-head attention with rotary positions.

    x --q_proj, k_proj, v_proj--> heads --rotate--> scaled_dot_product_attention --o_proj--> y

Axes: B batch, T time, D model, N heads, K kv heads, H head.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lm_torch import fused, kernels
from lm_torch.dropout import Dropping
from lm_torch.kernels.heads import projected_heads
from lm_torch.layers import Kernels, Linear, cast
from lm_torch.scratch import widened

JOINED_BYTES = 1 << 18
"""Bytes of the weight of queries up to which a CPU joins it with those of keys and values: what is larger than its
caches takes longer to join than one product saves."""
Offset = int | Tensor
"""The position of the first id that is read: of all rows, or of each row, [B]."""


def angles(offset: Offset, length: int, half: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles at `length` positions from `offset`: [T, half], or [B, 1, T, half]."""
    times = torch.arange(length, device=device)
    return angles_at(times + offset if isinstance(offset, int) else times + offset[:, None, None], half, theta)


def angles_at(positions: Tensor, half: int, theta: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles at `positions` [..., T]: [..., T, half]."""
    rates = theta ** (-torch.arange(half, device=positions.device, dtype=dtype) / half)
    turns = positions.to(dtype)[..., None] * rates
    return turns.cos(), turns.sin()


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., T, H] with element i turned with element i + H/2."""
    a, b = widened(x).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def rotate(x: Tensor, offset: Offset = 0, theta: float = 10000.0, positions: Tensor | None = None) -> Tensor:
    """Rotary positions (Su et al. 2021): element i turns with element i + H/2.

    Args:
        x: [..., T, H]; with an offset or positions for each row, [B, N, T, H].
        offset: the position of the first of the T.
        theta: base of the wavelengths.
        positions: of each of the T, [T] or [..., T], in place of an offset.
    """
    if positions is None:
        times = torch.arange(x.shape[-2], device=x.device)
        positions = times + offset if isinstance(offset, int) else times + offset[:, None]
    if positions.ndim > 1:
        positions = positions.unsqueeze(-2)  # the heads of a row are turned alike
    return turn(x, *angles_at(positions, x.shape[-1] // 2, theta, torch.promote_types(x.dtype, torch.float32)))


def packed(starts: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [..., T] and mask [..., 1, T, T] of documents that share a row.

    Args:
        starts: where the document of each token starts, [..., T] (`lm_core.model.positions.document_starts`).

    Returns:
        The distance of each token from there, and what it sees: its document from there to itself.
    """
    times = torch.arange(starts.shape[-1], device=starts.device)
    seen = (starts[..., None] <= times) & (times <= times[:, None])
    return times - starts, seen.unsqueeze(-3)


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
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads or n_heads, d_model // n_heads
        self.rope_theta, self.dropout_rate, self.kernels = rope_theta, dropout_rate, kernels
        kv_dim = self.n_kv_heads * self.head_dim
        self.q_proj = Linear(d_model, d_model, bias, kernels, dtype)
        self.k_proj = Linear(d_model, kv_dim, bias, kernels, dtype)
        self.v_proj = Linear(d_model, kv_dim, bias, kernels, dtype)
        self.o_proj = Linear(d_model, d_model, bias, kernels, dtype)

    def forward(
        self,
        x: Tensor,
        key: Tensor | None = None,
        site: int = 0,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
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
        return self.o_proj(mixed.transpose(-3, -2).reshape(x.shape))

    def queries_keys_values(self, x: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """[..., T, D] -> queries [..., N, T, H], keys and values [..., K, T, H], turned where positions are rotary."""
        q, k, v = self._projected(x)
        if self.rope_theta is not None:
            q, k = (rotate(a, 0, self.rope_theta, positions) for a in (q, k))
        return q, k, v

    def _projected(self, x: Tensor) -> Iterable[Tensor]:
        """Queries, keys and values, [..., heads, T, H]."""
        if not self._is_one_product(x):
            return [self._heads(proj(x)) for proj in self._qkv]
        if self.q_proj.bias is None or self.kernels is not fused or not kernels.usable(x):
            return map(self._heads, projected_together(x, *self._qkv))
        weight, bias = joined(x, *self._qkv)
        assert bias is not None
        return projected_heads(x, weight, bias, self.n_heads, self.n_kv_heads)

    def _is_one_product(self, x: Tensor) -> bool:
        """Whether queries, keys and values are made by one product rather than three."""
        weight = self.q_proj.weight
        if weight.ndim > 2:  # of several seeds the parts would not lie in one piece, and their gradients be copied
            return False
        return x.is_cuda or (self.kernels is fused and weight.nbytes <= JOINED_BYTES)

    @property
    def _qkv(self) -> tuple[Linear, Linear, Linear]:
        return self.q_proj, self.k_proj, self.v_proj

    def _heads(self, x: Tensor) -> Tensor:
        """[..., T, heads H] -> [..., heads, T, H]."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(-3, -2)


def projected_together(x: Tensor, *layers: Linear) -> list[Tensor]:
    """Outputs of linear layers for x, [..., out] each, by one product: faster on a GPU, and where they are small.

    The weights are stored apart, and joined where they are cast to the type of x.
    """
    y: Tensor = layers[0].kernels.linear(x, *joined(x, *layers))
    return list(y.split([len(layer.weight) for layer in layers], dim=-1))


def joined(x: Tensor, *layers: Linear) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of linear layers as those of one, in the type of x."""
    weight = torch.cat([cast(layer.weight, x) for layer in layers])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return weight, torch.cat([cast(b, x) for b in biases]) if biases else None
