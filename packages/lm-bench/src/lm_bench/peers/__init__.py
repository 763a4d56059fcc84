"""The bare loops: the same models as a competent user writes them from each framework's tutorial.

No protocol, no logging, no options but the ones measured. Each module imports its framework, so it is loaded by name
when it is needed.
"""

import importlib
from collections.abc import Callable
from typing import Protocol, SupportsFloat

from lm_core.backend import NumpyArrays
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch

Step = Callable[[Batch], SupportsFloat]
"""Takes one optimizer step and returns its loss in nats; reading the loss waits for the device."""


class Peer(Protocol):
    """What a module of this package defines."""

    def bare_step(
        self, model: ModelConfig, optimizer: AdamWConfig, step: StepConfig, weights: NumpyArrays, lr: float
    ) -> Step:
        """A bare loop's step, starting from `weights` under the names of `lm_core.model.parameters`."""


def load_peer(backend: str) -> Peer:
    """Import the bare loop of "torch" or "mlx", and the framework with it."""
    peer: Peer = importlib.import_module(f"{__name__}.{backend}_loop")
    return peer


def check_plain(model: ModelConfig) -> None:
    """The bare loops are GPT-2's block and nothing else."""
    assert model.norm == "layer", "the bare loops have LayerNorm"
    assert model.positions == "learned", "the bare loops have learned positions"
    assert model.mlp in ("gelu", "gelu_tanh"), "the bare loops have a GELU MLP"
    assert model.kv_heads == model.n_heads, "the bare loops have as many key as query heads"
    assert model.dropout == 0, "the bare loops have no dropout"
