"""The parts of a block. Parameters are float32; `astype(x.dtype)` casts them where they are used, so that the type of
the activations (float32 or bfloat16) decides the type of the matrix products.

Axes: B batch, T time, S cached time, D model, N heads, K kv heads, H head, F feed-forward.
"""

import math

import mlx.core as mx
from mlx import nn

from lm_core.config import ModelConfig
from lm_core.rng import GOLDEN, threshold


class Linear(nn.Module):
    """Y = x W^T + b over the last axis."""

    def __init__(self, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = mx.zeros((out_features, in_features))
        if bias:
            self.bias = mx.zeros((out_features,))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out]."""
        weight = self.weight.astype(x.dtype).T
        return mx.addmm(self.bias.astype(x.dtype), x, weight) if "bias" in self else x @ weight


class Embedding(nn.Module):
    """A table of `count` vectors."""

    def __init__(self, count: int, d_model: int):
        super().__init__()
        self.weight = mx.zeros((count, d_model))

    def __call__(self, ids: mx.array) -> mx.array:
        """[...] -> [..., D], float32."""
        return self.weight[ids]


class Norm(nn.Module):
    """LayerNorm or RMSNorm over D."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.kind, self.eps = config.norm, config.norm_eps
        self.weight = mx.zeros((config.d_model,))
        if config.norm == "layer" and config.bias:
            self.bias = mx.zeros((config.d_model,))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., D] -> [..., D]."""
        weight = self.weight.astype(x.dtype)
        if self.kind == "rms":
            return mx.fast.rms_norm(x, weight, self.eps)
        return mx.fast.layer_norm(x, weight, self.bias.astype(x.dtype) if "bias" in self else None, self.eps)


def _mix(x: mx.array) -> mx.array:
    """`lm_core.reference.dropout.mix` on uint32."""
    x = (x ^ (x >> 16)) * mx.array(0x7FEB352D, mx.uint32)
    x = (x ^ (x >> 15)) * mx.array(0x846CA68B, mx.uint32)
    return x ^ (x >> 16)


def dropout(x: mx.array, rate: float, key: mx.array | None, site: int) -> mx.array:
    """Drop elements by `lm_core.reference.dropout.keep_mask` and scale up the rest; no key, no dropout.

    Args:
        x: any shape.
        rate: probability of dropping an element.
        key: the step's 32-bit key, a uint32 scalar.
        site: which dropout of the model this is.
    """
    if key is None or rate == 0:
        return x
    site_key = _mix(key + mx.array((site * GOLDEN) & 0xFFFFFFFF, mx.uint32))
    bits = _mix(_mix(mx.arange(x.size, dtype=mx.uint32)) + site_key)
    keep = (bits >= mx.array(threshold(rate), mx.uint32)).reshape(x.shape)
    return mx.where(keep, x / (1 - rate), mx.zeros_like(x))


def rotate(x: mx.array, offset: int, theta: float) -> mx.array:
    """Rotary positions (Su et al. 2021) on [B, N, T, H]: element i turns with element i + H/2; times from `offset`."""
    half = x.shape[-1] // 2
    times = mx.arange(offset, offset + x.shape[-2], dtype=mx.float32)
    rates = mx.power(theta, -mx.arange(half, dtype=mx.float32) / half)
    angles = times[:, None] * rates
    cos, sin = mx.cos(angles), mx.sin(angles)
    a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


class KVCache:
    """Keys and values of one layer, [B, K, S, H], filled from the left."""

    def __init__(self, batch: int, seq_len: int, config: ModelConfig, dtype: mx.Dtype):
        shape = (batch, config.kv_heads, seq_len, config.head_dim)
        self.k, self.v = mx.zeros(shape, dtype), mx.zeros(shape, dtype)

    def append(self, k: mx.array, v: mx.array, offset: int) -> tuple[mx.array, mx.array]:
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

    def __call__(self, x: mx.array, key: mx.array | None, site: int, cache: KVCache | None, offset: int) -> mx.array:
        """[B, T, D] -> [B, T, D]; with a cache, the T new positions also see the `offset` cached ones."""
        c = self.config
        B, T, D = x.shape
        q = self.q_proj(x).reshape(B, T, c.n_heads, c.head_dim).transpose(0, 2, 1, 3)
        k = self.k_proj(x).reshape(B, T, c.kv_heads, c.head_dim).transpose(0, 2, 1, 3)
        v = self.v_proj(x).reshape(B, T, c.kv_heads, c.head_dim).transpose(0, 2, 1, 3)
        if c.positions == "rope":
            q, k = rotate(q, offset, c.rope_theta), rotate(k, offset, c.rope_theta)
        if cache is not None:
            k, v = cache.append(k, v, offset)
        assert offset == 0 or T == 1, "a prefill starts at 0, a step reads one id"
        if key is not None and c.dropout:
            mixed = self._with_dropout(q, k, v, key, site)
        else:
            mask = "causal" if offset == 0 else None
            mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(c.head_dim), mask=mask)
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(B, T, D))

    def _with_dropout(self, q: mx.array, k: mx.array, v: mx.array, key: mx.array, site: int) -> mx.array:
        """The fused kernel cannot drop attention weights."""
        c = self.config
        k, v = (mx.repeat(a, c.n_heads // c.kv_heads, axis=1) for a in (k, v))
        scores = (q @ k.swapaxes(-1, -2)).astype(mx.float32) / math.sqrt(c.head_dim)
        past = mx.tri(scores.shape[-2], dtype=mx.float32) > 0
        weights = mx.softmax(mx.where(past, scores, -mx.inf), axis=-1)
        return dropout(weights, c.dropout, key, site).astype(v.dtype) @ v


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh form of GELU (Hendrycks and Gimpel 2016); no `power`, which is 22 times slower on the CPU."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * (x * x))))


class MLP(nn.Module):
    """Up, nonlinearity, down; SwiGLU (Shazeer 2020) multiplies with a gate."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.kind = config.mlp
        if self.kind == "swiglu":
            self.gate_proj = Linear(config.d_model, config.ff_dim, config.bias)
        self.up_proj = Linear(config.d_model, config.ff_dim, config.bias)
        self.down_proj = Linear(config.ff_dim, config.d_model, config.bias)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., D] -> [..., D]."""
        if self.kind == "swiglu":
            return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))
        up = self.up_proj(x)
        return self.down_proj(gelu_tanh(up) if self.kind == "gelu_tanh" else nn.gelu(up))


class Block(nn.Module):
    """X + attn(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.rate, self.site = config.dropout, 3 * index + 1
        self.attn_norm, self.attn = Norm(config), Attention(config)
        self.mlp_norm, self.mlp = Norm(config), MLP(config)

    def __call__(self, x: mx.array, key: mx.array | None, cache: KVCache | None, offset: int) -> mx.array:
        """[B, T, D] -> [B, T, D]."""
        attended = self.attn(self.attn_norm(x), key, self.site, cache, offset)
        x = x + dropout(attended, self.rate, key, self.site + 1)
        return x + dropout(self.mlp(self.mlp_norm(x)), self.rate, key, self.site + 2)
