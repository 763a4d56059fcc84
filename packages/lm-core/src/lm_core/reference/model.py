"""The model and its loss in float64 numpy: what both backends are tested against.

    ids [B, T] -> embed -> n_layers x (x + attn(norm(x)), x + mlp(norm(x))) -> norm -> lm_head -> logits [B, T, V]

Axes: B batch, T time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from collections.abc import Mapping
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.model.positions import sinusoids

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]

_erf = np.vectorize(erf, otypes=[np.float64])


def softmax(x: Array) -> Array:
    """Over the last axis; the largest logit is taken off first, so that nothing overflows."""
    exps = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exps / exps.sum(axis=-1, keepdims=True))


def gelu(x: Array) -> Array:
    """x Phi(x) (Hendrycks and Gimpel 2016)."""
    return np.asarray(0.5 * x * (1 + _erf(x / np.sqrt(2))))


def gelu_tanh(x: Array) -> Array:
    """The tanh form of GELU, from the same paper."""
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def silu(x: Array) -> Array:
    """X times its logistic."""
    return np.asarray(x / (1 + np.exp(-x)))


def normalize(config: ModelConfig, weights: Weights, name: str, x: Array) -> Array:
    """LayerNorm or RMSNorm over D, as the config says."""
    if config.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    scaled = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_eps) * weights[f"{name}.weight"]
    return np.asarray(scaled + weights.get(f"{name}.bias", 0.0))


def linear(weights: Weights, name: str, x: Array) -> Array:
    """Y = x W^T + b, without b when the table has none."""
    return np.asarray(x @ weights[f"{name}.weight"].astype(np.float64).T + weights.get(f"{name}.bias", 0.0))


def rotate(x: Array, theta: float) -> Array:
    """Rotary positions (Su et al. 2021) on [..., T, H]: element i turns with element i + H/2."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[-2])[:, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], axis=-1)


def attention(config: ModelConfig, weights: Weights, name: str, x_BTD: Array) -> Array:
    """Causal attention; each of the K kv heads serves N / K query heads."""
    c = config
    B, T, _ = x_BTD.shape

    def heads(projection: str, count: int) -> Array:
        return linear(weights, f"{name}.{projection}", x_BTD).reshape(B, T, count, c.head_dim).transpose(0, 2, 1, 3)

    q, k, v = heads("q_proj", c.n_heads), heads("k_proj", c.kv_heads), heads("v_proj", c.kv_heads)
    if c.positions == "rope":
        q, k = rotate(q, c.rope_theta), rotate(k, c.rope_theta)
    k, v = (np.repeat(a, c.n_heads // c.kv_heads, axis=1) for a in (k, v))
    scores_BNTT = q @ k.swapaxes(-1, -2) / np.sqrt(c.head_dim)
    scores_BNTT = np.where(np.tril(np.ones((T, T), dtype=bool)), scores_BNTT, -np.inf)
    mixed = (softmax(scores_BNTT) @ v).transpose(0, 2, 1, 3).reshape(B, T, c.d_model)
    return linear(weights, f"{name}.o_proj", mixed)


def mlp(config: ModelConfig, weights: Weights, name: str, x: Array) -> Array:
    """Up, nonlinearity, down; SwiGLU multiplies with a gate (Shazeer 2020)."""
    up = linear(weights, f"{name}.up_proj", x)
    if config.mlp == "swiglu":
        hidden = silu(linear(weights, f"{name}.gate_proj", x)) * up
    else:
        hidden = gelu(up) if config.mlp == "gelu" else gelu_tanh(up)
    return linear(weights, f"{name}.down_proj", hidden)


def logits(config: ModelConfig, weights: Weights, ids_BT: NDArray[np.integer[Any]]) -> Array:
    """[B, T] ids -> [B, T, V]."""
    x = weights["embed.weight"].astype(np.float64)[ids_BT]
    if config.positions == "learned":
        x = x + weights["pos_embed.weight"][: ids_BT.shape[1]]
    if config.positions == "sinusoidal":
        x = x + sinusoids(ids_BT.shape[1], config.d_model)
    for i in range(config.n_layers):
        block = f"blocks.{i}"
        x = x + attention(config, weights, f"{block}.attn", normalize(config, weights, f"{block}.attn_norm", x))
        x = x + mlp(config, weights, f"{block}.mlp", normalize(config, weights, f"{block}.mlp_norm", x))
    x = normalize(config, weights, "norm", x)
    return linear(weights, "embed" if config.tie_embeddings else "lm_head", x)


def loss(config: ModelConfig, weights: Weights, ids_BT: NDArray[Any], targets_BT: NDArray[Any]) -> float:
    """Mean cross-entropy in nats."""
    logits_BTV = logits(config, weights, ids_BT)
    top = logits_BTV.max(axis=-1)
    log_sum = top + np.log(np.exp(logits_BTV - top[..., None]).sum(axis=-1))
    chosen = np.take_along_axis(logits_BTV, targets_BT[..., None].astype(np.int64), axis=-1)[..., 0]
    return float((log_sum - chosen).mean())
