"""An average of the weights over the steps, kept beside them (`lm_core.optim`)."""

from typing import Any

import mlx.core as mx
from numpy.typing import NDArray

from lm_mlx.optim.base import Arrays


class Average:
    """average <- decay average + (1 - decay) p, of every parameter; none is kept where the decay is 0."""

    def __init__(self, decay: float):
        self.decay = decay
        self.values: Arrays = {}

    def start(self, params: Arrays) -> None:
        """Begin at the current weights."""
        if self.decay:
            self.values |= {name: mx.array(p) for name, p in params.items()}

    def update(self, params: Arrays) -> None:
        """Take the weights of a step in."""
        for name, value in list(self.values.items()):
            self.values[name] = value + (1 - self.decay) * (params[name] - value)

    def named_state(self) -> Arrays:
        """The average, under the names of `lm_core.optim`."""
        return {f"average.{name}": value for name, value in self.values.items()}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace it."""
        self.values |= {name: mx.array(arrays[f"average.{name}"]) for name in self.values}
