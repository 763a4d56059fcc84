"""Workloads: a model, an optimizer, a batch shape, and data that a model can learn from.

Axes: B batch, T time, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_core.config import AdamWConfig, ModelConfig, OptimizerConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows

SEED = 0
TOKENS = 50_000


@dataclass(frozen=True)
class Case:
    """One workload; every batch is [batch_size, length]."""

    name: str
    model: ModelConfig
    optimizer: OptimizerConfig
    batch_size: int
    lr: float
    window: int | None = None
    """Tokens in a row, where they are fewer than the model takes."""

    @property
    def length(self) -> int:
        """T of every batch."""
        return self.window or self.model.seq_len

    def batches(self, count: int) -> list[Batch]:
        """The first `count` batches, the same on every call."""
        length = LengthRule(self.length, self.length)
        windows = RandomWindows(random_walk(self.model.vocab_size), self.batch_size, length, SEED)
        return [windows.batch(step) for step in range(1, count + 1)]


def random_walk(vocab_size: int, count: int = TOKENS) -> NDArray[np.uint16]:
    """[count] ids, each 1, 2 or 3 above the one before it, modulo V.

    Uniform noise would leave every model at ln V, right or wrong; here the loss falls from ln V towards ln 3, and two
    models whose losses agree all the way down are the same model.
    """
    steps = np.random.default_rng(SEED).integers(1, 4, size=count)
    return (np.cumsum(steps) % vocab_size).astype(np.uint16)


CASES = {
    case.name: case
    for case in (
        Case(
            "testbed-d",
            ModelConfig(
                vocab_size=65, seq_len=128, d_model=128, n_layers=2, n_heads=4, mlp="gelu_tanh", head_bias=True
            ),
            AdamWConfig(),
            batch_size=8,
            lr=3e-4,
        ),
        # nanoGPT's settings for a CPU (its README, "I only have a macbook"), with the beta2 of its character config.
        Case(
            "nanogpt-char",
            ModelConfig(
                vocab_size=65,
                seq_len=64,
                d_model=128,
                n_layers=4,
                n_heads=4,
                mlp="gelu",
                bias=False,
                tie_embeddings=True,
                depth_scaled_init=True,
            ),
            AdamWConfig(beta2=0.99),
            batch_size=12,
            lr=1e-3,
        ),
        # The manner of mlx-examples' transformer_lm, whose text is the Penn Treebank's 10,000 words: a wide head of its
        # own, with a bias, over a small model.
        Case(
            "ptb64",
            ModelConfig(vocab_size=10_000, seq_len=64, d_model=128, n_layers=4, n_heads=4, mlp="gelu", head_bias=True),
            AdamWConfig(),
            batch_size=12,
            lr=1e-3,
        ),
        # Long rows through many blocks and a small vocabulary: what a step holds is activations.
        Case(
            "blocks12",
            ModelConfig(vocab_size=65, seq_len=512, d_model=256, n_layers=12, n_heads=4, mlp="gelu"),
            AdamWConfig(),
            batch_size=8,
            lr=3e-4,
        ),
    )
}
