"""The parts of a block. Parameters are float32; `to(x.dtype)` casts them where they are used, so that the type of the
activations (float32 or bfloat16) decides the type of the matrix products.

Axes: B batch, T time, S cached time, D model, N heads, K kv heads, H head, F feed-forward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_core.config import ModelConfig
from lm_core.rng import GOLDEN, threshold

_MASK = 0xFFFFFFFF


class Linear(nn.Module):
    """Y = x W^T + b over the last axis."""

    def __init__(self, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Module):
    """A table of `count` vectors."""

    def __init__(self, count: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, d_model))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., D], float32."""
        return F.embedding(ids, self.weight)


class Norm(nn.Module):
    """LayerNorm or RMSNorm over D."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.kind, self.eps = config.norm, config.norm_eps
        self.weight = nn.Parameter(torch.empty(config.d_model))
        has_bias = config.norm == "layer" and config.bias
        self.bias = nn.Parameter(torch.empty(config.d_model)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        weight = self.weight.to(x.dtype)
        if self.kind == "rms":
            return F.rms_norm(x, x.shape[-1:], weight, self.eps)
        return F.layer_norm(x, x.shape[-1:], weight, None if self.bias is None else self.bias.to(x.dtype), self.eps)


def _mix(x: Tensor) -> Tensor:
    """`lm_core.reference.dropout.mix` on int64 tensors that hold 32-bit values."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def dropout(x: Tensor, rate: float, key: Tensor | None, site: int) -> Tensor:
    """Drop elements by `lm_core.reference.dropout.keep_mask` and scale up the rest; no key, no dropout.

    Args:
        x: any shape.
        rate: probability of dropping an element.
        key: the step's 32-bit key, an int64 scalar.
        site: which dropout of the model this is.
    """
    if key is None or rate == 0:
        return x
    index = torch.arange(x.numel(), device=x.device)
    bits = _mix((_mix(index) + _mix((key + site * GOLDEN) & _MASK)) & _MASK)
    return torch.where((bits >= threshold(rate)).view(x.shape), x / (1 - rate), 0.0)


def rotate(x: Tensor, offset: int, theta: float) -> Tensor:
    """Rotary positions (Su et al. 2021) on [B, N, T, H]: element i turns with element i + H/2; times from `offset`."""
    half = x.shape[-1] // 2
    times = torch.arange(offset, offset + x.shape[-2], device=x.device, dtype=torch.float32)
    rates = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = times[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    a, b = x.float().split(half, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class KVCache:
    """Keys and values of one layer, [B, K, S, H], filled from the left."""

    def __init__(self, batch: int, seq_len: int, config: ModelConfig, dtype: torch.dtype, device: torch.device):
        shape = (batch, config.kv_heads, seq_len, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    def append(self, k: Tensor, v: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        """Write [B, K, T, H] at `offset`; returns everything up to there."""
        end = offset + k.shape[2]
        self.k[:, :, offset:end], self.v[:, :, offset:end] = k, v
        return self.k[:, :, :end], self.v[:, :, :end]


class Attention(nn.Module):
    """Causal multi-head attention; each kv head serves N / K query heads (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        kv_dim = config.kv_heads * config.head_dim
        self.q_proj = Linear(config.d_model, config.d_model, config.bias)
        self.k_proj = Linear(config.d_model, kv_dim, config.bias)
        self.v_proj = Linear(config.d_model, kv_dim, config.bias)
        self.o_proj = Linear(config.d_model, config.d_model, config.bias)

    def forward(self, x: Tensor, key: Tensor | None, site: int, cache: KVCache | None, offset: int) -> Tensor:
        """[B, T, D] -> [B, T, D]; with a cache, the T new positions also see the `offset` cached ones."""
        c = self.config
        B, T, D = x.shape
        q = self.q_proj(x).view(B, T, c.n_heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(B, T, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(B, T, c.kv_heads, c.head_dim).transpose(1, 2)
        if c.positions == "rope":
            q, k = rotate(q, offset, c.rope_theta), rotate(k, offset, c.rope_theta)
        if cache is not None:
            k, v = cache.append(k, v, offset)
        assert offset == 0 or T == 1, "a prefill starts at 0, a step reads one id"
        if key is not None and c.dropout:
            mixed = self._with_dropout(q, k, v, key, site)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=offset == 0, enable_gqa=c.kv_heads != c.n_heads)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, T, D))

    def _with_dropout(self, q: Tensor, k: Tensor, v: Tensor, key: Tensor, site: int) -> Tensor:
        """The fused kernel draws its own mask; ours must be the one the other backend draws."""
        c = self.config
        k, v = (a.repeat_interleave(c.n_heads // c.kv_heads, dim=1) for a in (k, v))
        scores = (q @ k.transpose(-1, -2)).float() / c.head_dim**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return dropout(weights, c.dropout, key, site).to(v.dtype) @ v


class MLP(nn.Module):
    """Up, nonlinearity, down; SwiGLU (Shazeer 2020) multiplies with a gate."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.kind = config.mlp
        if self.kind == "swiglu":
            self.gate_proj = Linear(config.d_model, config.ff_dim, config.bias)
        self.up_proj = Linear(config.d_model, config.ff_dim, config.bias)
        self.down_proj = Linear(config.ff_dim, config.d_model, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.kind == "swiglu":
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh" if self.kind == "gelu_tanh" else "none"))


class Block(nn.Module):
    """X + attn(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.rate, self.site = config.dropout, 3 * index + 1
        self.attn_norm, self.attn = Norm(config), Attention(config)
        self.mlp_norm, self.mlp = Norm(config), MLP(config)

    def forward(self, x: Tensor, key: Tensor | None, cache: KVCache | None, offset: int) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        attended = self.attn(self.attn_norm(x), key, self.site, cache, offset)
        x = x + dropout(attended, self.rate, key, self.site + 1)
        return x + dropout(self.mlp(self.mlp_norm(x)), self.rate, key, self.site + 2)
