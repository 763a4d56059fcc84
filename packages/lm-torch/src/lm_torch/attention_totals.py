"""Attention weights added up as they are made, some queries at a time, and never held at once.

    q [B, N, T, H], k --queries t0 to t1, keys 0 to t1--> log weights --> entropy, first
                                                              '--exp--> weights --skewed--> distance

Only keys before the end of a block of queries are read, so half of the products and exponentials are left out.

Axes: B batch, N heads, T queries, S keys, H head.
"""

import math

import numpy as np
import torch
from torch import Tensor

from lm_core.backend import AttentionTotals

QUERIES, ELEMENTS = 128, 1 << 20
"""Queries of a block, and weights of a part of it at most, but one head at least: 4 MiB, which a cache holds."""
NEVER = -1e30
"""Log weight of what a query does not see. Its exponential is 0, and 0 times it too; of infinity that is no number."""


def attention_totals(q: Tensor, k: Tensor, mask: Tensor | None) -> AttentionTotals:
    """Sums over rows and queries of q, k [B, N, T, H]; mask [..., T, T] as of attention, by default causal."""
    B, N, T, _ = q.shape
    totals = torch.zeros((N, T + 2), dtype=torch.float64, device=q.device)
    distance, entropy, first = totals[:, :T], totals[:, T], totals[:, T + 1]
    if mask is not None:
        mask = mask.expand(B, 1, T, T)
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        heads = max(1, ELEMENTS // (B * (end - start) * end))
        for head in range(0, N, heads):
            some = slice(head, head + heads)
            hidden = None if mask is None else ~mask[:, :, start:end, :end]
            logs = _log_weights(q[:, some, start:end], k[:, some, :end], hidden)
            weights = logs.exp()
            entropy[some] -= logs.mul_(weights).sum(dim=-1).sum(dim=(0, 2), dtype=torch.float64)
            first[some] += weights[..., max(0, 1 - start) :, 0].sum(dim=(0, 2), dtype=torch.float64)
            distance[some, :end] += _by_distance(weights, start)
    found = totals.cpu().numpy()
    return AttentionTotals(np.ascontiguousarray(found[:, :T]), found[:, T].copy(), found[:, T + 1].copy())


def _log_weights(q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
    """[B, N, t, H], [B, N, S, H] -> [B, N, t, S] float32, where the last t of the S keys are those of the queries."""
    scores = (q @ k.mT).float().mul_(1 / math.sqrt(q.shape[-1]))
    if hidden is None:
        t = q.shape[-2]
        future = torch.ones((t, t), dtype=torch.bool, device=q.device).triu_(1)
        scores[..., -t:].masked_fill_(future, NEVER)
    else:
        scores.masked_fill_(hidden, NEVER)
    return torch.log_softmax(scores, dim=-1)


def _by_distance(weights: Tensor, start: int) -> Tensor:
    """[B, N, t, S] of the queries from `start` on, S = start + t -> [N, d = 0 to S - 1]."""
    _, N, t, S = weights.shape
    # Read as rows of S + 1, the t x S weights have each distance in a column of its own: query i and key s lie at
    # i S + s = i (S + 1) + (s - i), and d is start + i - s. What lies in the future, and would fall in the same
    # columns, is 0.
    skewed = weights.new_zeros((N, t * (S + 1)))
    skewed[:, : t * S] = weights.sum(dim=0).flatten(1)
    columns = skewed.view(N, t, S + 1).sum(dim=1, dtype=torch.float64)
    return torch.cat([columns[:, : start + 1].flip(1), columns[:, start + 2 :].flip(1)], dim=1)
