"""What a head is worth: the loss without it, minus the loss with it, in nats per token.

A head is taken out by its columns of the output projection, which are set to zero. So what it adds to the residual
stream is zero, exactly and in any backend, and the biases stay: zero ablation, not the mean over a corpus.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import Scorer
from lm_core.config import ModelConfig
from lm_core.data.batches import Batch

Weights = Mapping[str, NDArray[Any]]


def without_head(config: ModelConfig, weights: Weights, layer: int, head: int) -> dict[str, NDArray[Any]]:
    """The weights of a model in which a head adds nothing; what does not change is not copied."""
    name = f"blocks.{layer}.attn.o_proj.weight"
    projection = weights[name].copy()
    projection[:, head * config.head_dim : (head + 1) * config.head_dim] = 0
    return {**weights, name: projection}


def ablation_costs(
    scorer: Scorer,
    config: ModelConfig,
    weights: Weights,
    batches: Sequence[Batch],
    tick: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """Nats per token that the loss of batches rises by without each head, [L, N]; below 0 where it falls.

    The scorer holds `weights`, and does so again at the end. `tick` is called after each head.
    """

    def loss() -> float:
        total = sum(float(scorer.score(batch).sum(dtype=np.float64)) for batch in batches)
        return total / sum(batch.tokens for batch in batches)

    costs, whole = np.zeros((config.n_layers, config.n_heads)), loss()
    try:
        for layer, head in np.ndindex(costs.shape):
            scorer.load(without_head(config, weights, layer, head))
            costs[layer, head] = loss() - whole
            tick()
    finally:
        scorer.load(weights)
    return costs
