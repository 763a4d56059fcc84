"""Muon, as `lm_core.optim` specifies it: the matrices of the blocks are orthogonalized, the rest takes AdamW's step."""

from typing import Any

import mlx.core as mx
from numpy.typing import NDArray

from lm_core.config import AdamWConfig, MuonConfig
from lm_core.model.parameters import Table
from lm_core.optim import NEWTON_SCHULZ, muon_scale, orthogonalized
from lm_mlx.optim.adamw import AdamW
from lm_mlx.optim.base import Arrays, Optimizer


def newton_schulz(matrices: mx.array, steps: int) -> mx.array:
    """[..., rows, columns] -> about the nearest semi-orthogonal matrices: the singular values go towards 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.swapaxes(-1, -2) if tall else matrices
    x = x / (mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True)) + 1e-7)
    for _ in range(steps):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.swapaxes(-1, -2) if tall else x


class Muon(Optimizer):
    """See `lm_core.optim`. Matrices of one shape are orthogonalized together."""

    def __init__(self, config: MuonConfig, table: Table):
        super().__init__(config, table)
        self.config = config
        self.matrices = {name: table[name] for name in orthogonalized(table)}
        same = config.model_dump(include={"beta1", "beta2", "eps", "weight_decay", "decay_groups"})
        self.rest = AdamW(AdamWConfig(**same), {n: p for n, p in table.items() if n not in self.matrices})
        self.state |= {"rest": self.rest.state, "m_matrices": {n: mx.zeros(p.shape) for n, p in self.matrices.items()}}
        self.by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in self.matrices.items():
            self.by_shape.setdefault(parameter.shape, []).append(name)

    def corrections(self) -> tuple[float, float]:
        """AdamW's: the matrices' step has none."""
        self.rest.t = self.t
        return self.rest.corrections()

    def update(self, params: Arrays, grads: Arrays, scalars: mx.array) -> Arrays:
        """The parameters after one step."""
        c, m = self.config, self.state["m_matrices"]
        others = {name: g for name, g in grads.items() if name not in m}
        updated = self.rest.update({name: params[name] for name in others}, others, scalars)
        lr = scalars[0] * c.lr_factor
        matrices = self.decay_weights({name: params[name] for name in m}, lr)
        for shape, names in self.by_shape.items():
            for name in names:
                m[name] = c.momentum * m[name] + (1 - c.momentum) * grads[name]
            ahead = [(1 - c.momentum) * grads[n] + c.momentum * m[n] if c.nesterov else m[n] for n in names]
            steps = newton_schulz(mx.stack(ahead), c.ns_steps) * (lr * muon_scale(c, shape))
            updated |= {name: matrices[name] - step for name, step in zip(names, steps, strict=True)}
        return {name: updated[name] for name in params}

    def named_state(self) -> Arrays:
        """The state under the names of `lm_core.optim`."""
        return {**self.rest.named_state(), **{f"m.{name}": m for name, m in self.state["m_matrices"].items()}}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace the state."""
        self.rest.load(arrays)
        self.t = self.rest.t
        self.state["m_matrices"] |= {name: mx.array(arrays[f"m.{name}"]) for name in self.matrices}
