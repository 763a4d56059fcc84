"""Small models with every feature, rough weights, learnable batches, optimizers: what the suites compare with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import AdamWConfig, KBetaConfig, ModelConfig, MuonConfig, OptimizerConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows
from lm_core.model.init import Arrays, initial_arrays
from lm_core.rng import generator

MODELS = {
    "testbed-d": ModelConfig(vocab_size=31, seq_len=24, d_model=32, n_layers=2, n_heads=4, head_bias=True),
    "gpt2": ModelConfig(vocab_size=31, seq_len=24, d_model=32, n_layers=2, n_heads=4, mlp="gelu", tie_embeddings=True),
    "llama": ModelConfig(
        vocab_size=31,
        seq_len=24,
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        norm="rms",
        mlp="swiglu",
        positions="rope",
        bias=False,
    ),
    "sinusoidal": ModelConfig(
        vocab_size=31, seq_len=24, d_model=32, n_layers=1, n_heads=2, positions="sinusoidal", tie_embeddings=True
    ),
    "bare": ModelConfig(vocab_size=31, seq_len=24, d_model=32, n_layers=1, n_heads=1, positions="none", bias=False),
}

ADAMW = AdamWConfig(weight_decay=0.1)
KBETA = KBetaConfig(beta2_min=0.88, alpha=0.93, tiny_spike=1e-9, bias_correction="beta2max", warmup_steps=3)
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": ADAMW,
    "adamw-no-decay": AdamWConfig(),
    "adamw-uncorrected": ADAMW.model_copy(update={"bias_correction": False, "decay_groups": ("bias", "norm")}),
    "kbeta": KBETA,
    "kbeta-shape": KBETA.model_copy(update={"buckets": "shape", "weight_decay": 0.1}),
    "kbeta-per-array": KBETA.model_copy(update={"buckets": "per-array"}),
    "kbeta-exact": KBETA.model_copy(update={"bias_correction": "exact", "warmup_steps": 0}),
    "kbeta-none": KBETA.model_copy(update={"bias_correction": "none", "adaptive_tiny": True, "tiny_denom": 1e-3}),
    "kbeta-decay": KBETA.model_copy(update={"decay": 0.98}),
    "kbeta-max-ratio": KBETA.model_copy(update={"max_ratio": 0.5}),
    "kbeta-everything": KBETA.model_copy(
        update={"decay": 0.9, "max_ratio": 2.0, "adaptive_tiny": True, "buckets": "per-array"}
    ),
    "adamw-average": ADAMW.model_copy(update={"average": 0.9}),
    "kbeta-average": KBETA.model_copy(update={"average": 0.5}),
    "muon": MuonConfig(weight_decay=0.1, lr_factor=2.0),
    "muon-original": MuonConfig(scale="original", nesterov=False, decay_groups=("embed", "matrix"), weight_decay=0.1),
}


def rough_arrays(config: ModelConfig, seed: int = 0) -> Arrays:
    """Weights with larger values than the initial ones, biases included, so that every term counts in a comparison."""
    arrays = initial_arrays(config, seed)
    return {
        name: array + 0.1 * generator(seed, "rough", name).standard_normal(array.shape, dtype=np.float32)
        for name, array in arrays.items()
    }


def some_batches(config: ModelConfig, rows: int = 4, length: int = 16, seed: int = 0) -> RandomWindows:
    """Batches of random ids with some structure to learn: each id tends to follow the one before it."""
    steps = generator(seed, "text").integers(0, 3, size=2000)
    return RandomWindows(np.cumsum(steps) % config.vocab_size, rows, LengthRule(length, length), seed)


def packed_batch(config: ModelConfig, rows: int = 4, length: int = 16, seed: int = 0) -> Batch:
    """A batch whose rows hold several documents, with weights above, below and at 0.

    Numbers of documents come back after another's, and mean another document then.
    """
    batch, draw = some_batches(config, rows, length, seed).batch(1), generator(seed, "packed")
    weights = draw.standard_normal(batch.targets.shape, dtype=np.float32)
    weights[draw.random(weights.shape) < 0.2] = 0
    segments = np.cumsum(draw.random(batch.inputs.shape) < 0.3, axis=1) % 2
    return Batch(batch.inputs, batch.targets, weights, segments)


def without_key_biases(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Weights that can be compared after training: a key bias shifts all scores of a row alike, which softmax ignores.

    So its gradient is rounding noise, which an adaptive optimizer scales up to full steps that change nothing.
    """
    return {name: array for name, array in arrays.items() if not name.endswith("k_proj.bias")}
