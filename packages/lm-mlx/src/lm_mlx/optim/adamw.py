"""Adam with decoupled weight decay, as `lm_core.optim` specifies it."""

from typing import Any

import mlx.core as mx
from numpy.typing import NDArray

from lm_core.config import AdamWConfig
from lm_core.model.parameters import Table
from lm_mlx.optim.base import Arrays, Optimizer


class AdamW(Optimizer):
    """See `lm_core.optim`."""

    def __init__(self, config: AdamWConfig, table: Table):
        super().__init__(config, table)
        self.config = config
        self.state |= {kind: {name: mx.zeros(p.shape) for name, p in table.items()} for kind in ("m", "v")}

    def corrections(self) -> tuple[float, float]:
        """1 - beta^t, or 1."""
        c = self.config
        return (1 - c.beta1**self.t, 1 - c.beta2**self.t) if c.bias_correction else (1.0, 1.0)

    def update(self, params: Arrays, grads: Arrays, scalars: mx.array) -> Arrays:
        """The parameters after one step."""
        c, (lr, c1, c2) = self.config, scalars
        m, v = self.state["m"], self.state["v"]
        params = self.decay_weights(params, lr)
        for name, g in grads.items():
            m[name] = c.beta1 * m[name] + (1 - c.beta1) * g
            v[name] = c.beta2 * v[name] + (1 - c.beta2) * mx.square(g)
            params[name] = params[name] - (lr / c1) * m[name] / (mx.sqrt(v[name] / c2) + c.eps)
        return params

    def named_state(self) -> Arrays:
        """The state under the names of `lm_core.optim`."""
        named: Arrays = {"step": mx.array(self.t, dtype=mx.int64)}
        for kind in ("m", "v"):
            named |= {f"{kind}.{name}": self.state[kind][name] for name in self.table}
        return named

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace the state."""
        self.t = int(arrays["step"])
        for kind in ("m", "v"):
            self.state[kind] |= {name: mx.array(arrays[f"{kind}.{name}"]) for name in self.table}
