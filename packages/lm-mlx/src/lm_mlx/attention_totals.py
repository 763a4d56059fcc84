"""Attention weights added up as they are made, some queries at a time, and never held at once.

    q [B, N, T, H], k --queries t0 to t1, keys 0 to t1--> log weights --> entropy, first
                                                              '--exp--> weights --skewed--> distance

Only keys before the end of a block of queries are read, so half of the products and exponentials are left out.

Axes: B batch, N heads, T queries, S keys, H head.
"""

import math

import mlx.core as mx
import numpy as np

from lm_core.backend import AttentionTotals

QUERIES, ELEMENTS = 128, 1 << 20
"""Queries of a block, and weights of a part of it at most, but one head at least: 4 MiB, which a cache holds."""
NEVER = -1e30
"""Log weight of what a query does not see. Its exponential is 0, and 0 times it too; of infinity that is no number."""


def attention_totals(q: mx.array, k: mx.array, mask: mx.array | None) -> AttentionTotals:
    """Sums over rows and queries of q, k [B, N, T, H]; mask [..., T, T] as of attention, by default causal."""
    B, N, T, _ = q.shape
    distance, entropy, first = np.zeros((N, T)), np.zeros(N), np.zeros(N)
    if mask is not None:
        mask = mx.broadcast_to(mask, (B, 1, T, T))
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        heads = max(1, ELEMENTS // (B * (end - start) * end))
        for head in range(0, N, heads):
            some = slice(head, head + heads)
            seen = None if mask is None else mask[:, :, start:end, :end]
            logs = _log_weights(q[:, some, start:end], k[:, some, :end], seen)
            weights = mx.exp(logs)
            # float32 up to a query, or a distance of a block; float64, which Apple's GPU has not, from there on.
            entropy[some] -= np.array((logs * weights).sum(axis=-1)).sum(axis=(0, 2), dtype=np.float64)
            first[some] += np.array(weights[..., max(0, 1 - start) :, 0]).sum(axis=(0, 2), dtype=np.float64)
            distance[some, :end] += _by_distance(weights, start)
    return AttentionTotals(distance, entropy, first)


def _log_weights(q: mx.array, k: mx.array, seen: mx.array | None) -> mx.array:
    """[B, N, t, H], [B, N, S, H] -> [B, N, t, S] float32, where the last t of the S keys are those of the queries."""
    scores = (q @ k.swapaxes(-1, -2)).astype(mx.float32) * (1 / math.sqrt(q.shape[-1]))
    if seen is None:
        t, S = scores.shape[-2:]
        seen = mx.arange(S)[None] <= mx.arange(S - t, S)[:, None]
    scores = mx.where(seen, scores, mx.array(NEVER, mx.float32))
    return scores - mx.logsumexp(scores, axis=-1, keepdims=True)


def _by_distance(weights: mx.array, start: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[B, N, t, S] of the queries from `start` on, S = start + t -> [N, d = 0 to S - 1]."""
    _, N, t, S = weights.shape
    # Read as rows of S + 1, the t x S weights have each distance in a column of its own: query i and key s lie at
    # i S + s = i (S + 1) + (s - i), and d is start + i - s. What lies in the future, and would fall in the same
    # columns, is 0.
    skewed = mx.pad(weights.sum(axis=0).reshape(N, t * S), [(0, 0), (0, t)])
    columns = np.array(skewed.reshape(N, t, S + 1).sum(axis=1))
    return np.concatenate([columns[:, start::-1], columns[:, : start + 1 : -1]], axis=1)
