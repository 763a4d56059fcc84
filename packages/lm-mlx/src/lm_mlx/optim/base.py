"""Shared code of the optimizers: named state, the step counter, weight decay.

An update maps (parameters, gradients, scalars) to new parameters and changes `state`, a tree of arrays that a compiled
step captures. The scalars come as arrays, so that a compiled step is compiled once.
"""

from typing import Any

import mlx.core as mx
from numpy.typing import NDArray

from lm_core.config import OptimizerConfig
from lm_core.model.parameters import Table
from lm_core.optim import decayed

Arrays = dict[str, mx.array]


class Optimizer:
    """The state of one optimizer over the parameters of `table`."""

    def __init__(self, config: OptimizerConfig, table: Table):
        self.table = table
        self.t = 0
        self.weight_decay = config.weight_decay
        self.decayed = set(decayed(config.decay_groups, table)) if config.weight_decay else set()
        self.state: dict[str, Any] = {}

    def scalars(self, lr: float) -> mx.array:
        """Count a step; returns [lr, c1, c2] of the specification at that step."""
        self.t += 1
        return mx.array([lr, *self.corrections()], dtype=mx.float32)

    def decay_weights(self, params: Arrays, lr: mx.array) -> Arrays:
        """p (1 - lr weight_decay) for the decay groups. The arrays returned are new ones, whatever is done to them."""
        factor = 1 - lr * self.weight_decay
        return {name: p * factor if name in self.decayed else mx.stop_gradient(p) for name, p in params.items()}

    def corrections(self) -> tuple[float, float]:
        """c1 and c2 of the specification at step t, in double precision."""
        raise NotImplementedError

    def update(self, params: Arrays, grads: Arrays, scalars: mx.array) -> Arrays:
        """The parameters after one step."""
        raise NotImplementedError

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Values to log, by bucket."""
        return {}

    def named_state(self) -> Arrays:
        """The state under the names of `lm_core.optim`."""
        raise NotImplementedError

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace the state."""
        raise NotImplementedError
