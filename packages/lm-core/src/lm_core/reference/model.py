"""The model and its loss in float64 numpy: what both backends are tested against.

    ids [B, T] -> embed -> n_layers x (x + attn(norm(x)), x + mlp(norm(x))) -> norm -> lm_head -> logits [B, T, V]

Axes: B batch, T time, D model, N heads, K kv heads, H head, F feed-forward, V vocabulary.
"""

from collections.abc import Mapping
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import AttentionTotals
from lm_core.config import ModelConfig
from lm_core.model.positions import document_starts, sinusoids

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


def rms_norm(x: Array, weight: NDArray[Any], bias: NDArray[Any] | float = 0.0, eps: float = 1e-5) -> Array:
    """RMSNorm over the last axis (Zhang and Sennrich 2019)."""
    return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight + bias)


def layer_norm(x: Array, weight: NDArray[Any], bias: NDArray[Any] | float = 0.0, eps: float = 1e-5) -> Array:
    """LayerNorm over the last axis (Ba et al. 2016)."""
    return rms_norm(x - x.mean(axis=-1, keepdims=True), weight, bias, eps)


def normalize(config: ModelConfig, weights: Weights, name: str, x: Array) -> Array:
    """LayerNorm or RMSNorm over D, as the config says."""
    norm = layer_norm if config.norm == "layer" else rms_norm
    return norm(x, weights[f"{name}.weight"], weights.get(f"{name}.bias", 0.0), config.norm_eps)


def linear(weights: Weights, name: str, x: Array) -> Array:
    """Y = x W^T + b, without b when the table has none."""
    return np.asarray(x @ weights[f"{name}.weight"].astype(np.float64).T + weights.get(f"{name}.bias", 0.0))


def rotate(x: Array, theta: float, positions: NDArray[Any] | None = None) -> Array:
    """Rotary positions (Su et al. 2021) on [..., T, H]: element i turns with element i + H/2.

    `positions` [..., T] are 0 to T - 1 by default.
    """
    half = x.shape[-1] // 2
    positions = np.arange(x.shape[-2]) if positions is None else positions
    angles = positions[..., None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], axis=-1)


def scaled_dot_product_attention(q: Array, k: Array, v: Array, seen: NDArray[np.bool_] | bool = True) -> Array:
    """Attention (Vaswani et al. 2017, eq. 1), with the keys that a query has `seen`.

    q [..., N, T, H], k and v [..., K, S, H], `seen` [..., T, S] -> [..., N, T, H]; each of the K kv heads serves N / K
    query heads.
    """
    if k.ndim > 2:
        k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    scores = np.where(seen, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    return softmax(scores) @ v


def attention(
    config: ModelConfig, weights: Weights, name: str, x_BTD: Array, starts_BT: NDArray[Any] | None = None
) -> Array:
    """Attention to the earlier tokens of a document and to itself."""
    q, k, v, seen = _heads(config, weights, name, x_BTD, starts_BT)
    mixed = scaled_dot_product_attention(q, k, v, seen).transpose(0, 2, 1, 3).reshape(x_BTD.shape)
    return linear(weights, f"{name}.o_proj", mixed)


def _heads(
    config: ModelConfig, weights: Weights, name: str, x_BTD: Array, starts_BT: NDArray[Any] | None
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Queries [B, N, T, H], keys and values [B, K, T, H], and the keys that a query sees, [B, 1, T, T]."""
    c = config
    B, T, _ = x_BTD.shape
    times = np.arange(T)
    starts_BT = np.zeros((B, T), dtype=np.int64) if starts_BT is None else starts_BT

    def heads(projection: str, count: int) -> Array:
        return linear(weights, f"{name}.{projection}", x_BTD).reshape(B, T, count, c.head_dim).transpose(0, 2, 1, 3)

    q, k, v = heads("q_proj", c.n_heads), heads("k_proj", c.kv_heads), heads("v_proj", c.kv_heads)
    if c.positions == "rope":
        q, k = (rotate(a, c.rope_theta, (times - starts_BT)[:, None]) for a in (q, k))
    seen_BTT = (starts_BT[..., None] <= times) & (times <= times[:, None])
    return q, k, v, seen_BTT[:, None]


def mlp(config: ModelConfig, weights: Weights, name: str, x: Array) -> Array:
    """Up, nonlinearity, down; SwiGLU multiplies with a gate (Shazeer 2020)."""
    up = linear(weights, f"{name}.up_proj", x)
    if config.mlp == "swiglu":
        hidden = silu(linear(weights, f"{name}.gate_proj", x)) * up
    else:
        hidden = gelu(up) if config.mlp == "gelu" else gelu_tanh(up)
    return linear(weights, f"{name}.down_proj", hidden)


def logits(
    config: ModelConfig, weights: Weights, ids_BT: NDArray[np.integer[Any]], segments_BT: NDArray[Any] | None = None
) -> Array:
    """[B, T] ids -> [B, T, V]; for segments see `lm_core.data.batches.Batch`."""
    return lens(config, weights, residual(config, weights, ids_BT, config.n_layers, segments_BT))


def lens(config: ModelConfig, weights: Weights, x_BTD: Array) -> Array:
    """Logits [B, T, V] of a residual stream: the final norm and the head, as if no block came after it."""
    return linear(weights, "embed" if config.tie_embeddings else "lm_head", normalize(config, weights, "norm", x_BTD))


def attention_weights(
    config: ModelConfig,
    weights: Weights,
    ids_BT: NDArray[np.integer[Any]],
    layer: int,
    segments_BT: NDArray[Any] | None = None,
) -> Array:
    """How much of each earlier position a head of a layer takes for each position: [B, T] ids -> [B, N, T, T].

    A row is of one query, and sums to 1. They are what attention makes of values that are the unit vectors.
    """
    T, block = ids_BT.shape[1], f"blocks.{layer}"
    x = residual(config, weights, ids_BT, layer, segments_BT)
    normal = normalize(config, weights, f"{block}.attn_norm", x)
    q, k, _, seen = _heads(config, weights, f"{block}.attn", normal, _starts(ids_BT, segments_BT))
    return scaled_dot_product_attention(q, k, np.broadcast_to(np.eye(T), (*k.shape[:2], T, T)), seen)


def attention_totals(weights_BNTS: Array) -> AttentionTotals:
    """What is added up of attention weights, spelled out."""
    by_head = weights_BNTS.sum(axis=0)
    T = by_head.shape[-1]
    distance = np.array([[np.trace(head, -d) for d in range(T)] for head in by_head])
    logs = np.log(np.where(weights_BNTS > 0, weights_BNTS, 1))
    return AttentionTotals(distance, -(weights_BNTS * logs).sum(axis=(0, 2, 3)), by_head[:, 1:, 0].sum(axis=1))


def _starts(ids_BT: NDArray[Any], segments_BT: NDArray[Any] | None) -> NDArray[np.int64]:
    return document_starts(np.zeros_like(ids_BT) if segments_BT is None else segments_BT)


def residual(
    config: ModelConfig,
    weights: Weights,
    ids_BT: NDArray[np.integer[Any]],
    layers: int,
    segments_BT: NDArray[Any] | None = None,
) -> Array:
    """The residual stream after the first `layers` blocks, [B, T, D]."""
    starts_BT = _starts(ids_BT, segments_BT)
    positions_BT = np.arange(ids_BT.shape[1]) - starts_BT
    x = weights["embed.weight"].astype(np.float64)[ids_BT]
    if config.positions == "learned":
        x = x + weights["pos_embed.weight"][positions_BT]
    if config.positions == "sinusoidal":
        x = x + sinusoids(ids_BT.shape[1], config.d_model)[positions_BT]
    for i in range(layers):
        block = f"blocks.{i}"
        normal = normalize(config, weights, f"{block}.attn_norm", x)
        x = x + attention(config, weights, f"{block}.attn", normal, starts_BT)
        x = x + mlp(config, weights, f"{block}.mlp", normalize(config, weights, f"{block}.mlp_norm", x))
    return np.asarray(x)


def token_losses(logits: Array, targets: NDArray[Any]) -> Array:
    """Nats of each target: logits [..., V], targets [...] -> [...]."""
    top = logits.max(axis=-1)
    log_sum = top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.asarray(log_sum - chosen)


def token_marks(logits: Array, targets: NDArray[Any]) -> Array:
    """Nats, rank and confidence of each target, see `Marks`: logits [..., V], targets [...] -> [3, ...]."""
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), axis=-1)
    rank = (~(logits < chosen)).sum(axis=-1) - 1
    return np.stack([token_losses(logits, targets), rank, softmax(logits).max(axis=-1)])


def score(
    config: ModelConfig,
    weights: Weights,
    ids_BT: NDArray[Any],
    targets_BT: NDArray[Any],
    segments_BT: NDArray[Any] | None = None,
) -> Array:
    """Nats of each target, [B, T]."""
    return token_losses(logits(config, weights, ids_BT, segments_BT), targets_BT)


def loss(
    config: ModelConfig,
    weights: Weights,
    ids_BT: NDArray[Any],
    targets_BT: NDArray[Any],
    weights_BT: NDArray[Any] | None = None,
    segments_BT: NDArray[Any] | None = None,
) -> float:
    """Mean over all targets of weight x nats."""
    losses_BT = score(config, weights, ids_BT, targets_BT, segments_BT)
    return float((losses_BT if weights_BT is None else losses_BT * weights_BT).mean())
