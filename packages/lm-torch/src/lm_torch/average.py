"""An average of the weights over the steps, kept beside them (`lm_core.optim`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Average:
    """average <- decay average + (1 - decay) p, of every one of `params`; none is kept where the decay is 0."""

    def __init__(self, decay: float, params: Mapping[str, Tensor]):
        self.decay, self.params = decay, {name: p.detach() for name, p in params.items()} if decay else {}
        self.values = {name: torch.empty_like(p) for name, p in self.params.items()}

    @torch.no_grad()
    def start(self) -> None:
        """Begin at the current weights."""
        for name, p in self.params.items():
            self.values[name].copy_(p)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step in."""
        if self.params:
            torch._foreach_lerp_(list(self.values.values()), list(self.params.values()), 1 - self.decay)

    def named_state(self) -> dict[str, Tensor]:
        """The average itself, under the names of `lm_core.optim`."""
        return {f"average.{name}": value for name, value in self.values.items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace it."""
        for name, value in self.values.items():
            value.copy_(torch.from_numpy(arrays[f"average.{name}"]))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the weights are the average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, p in self.params.items():
            kept = p.clone()
            p.copy_(self.values[name])
            self.values[name].copy_(kept)
