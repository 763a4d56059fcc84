"""Muon, as `lm_core.optim` specifies it: the matrices of the blocks are orthogonalized, the rest takes AdamW's step."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.config import AdamWConfig, MuonConfig
from lm_core.model.parameters import Table
from lm_core.optim import NEWTON_SCHULZ, muon_scale, orthogonalized
from lm_torch.optim.adamw import AdamW
from lm_torch.optim.base import Optimizer

if TYPE_CHECKING:
    from lm_torch.shards import Shards


def newton_schulz(matrices: Tensor, steps: int) -> Tensor:
    """[..., rows, columns] -> about the nearest semi-orthogonal matrices: the singular values go towards 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """See `lm_core.optim`. Matrices of one shape are orthogonalized together."""

    slot_kinds = ("m",)

    def __init__(self, config: MuonConfig, table: Table, params: dict[str, Tensor], fused: bool = True):
        matrices = {name: table[name] for name in orthogonalized(table)}
        super().__init__(config, matrices, params)
        self.config = config
        self.is_matrix = [name in matrices for name in table]
        rest = {name: parameter for name, parameter in table.items() if name not in matrices}
        same = config.model_dump(include={"beta1", "beta2", "eps", "weight_decay", "decay_groups"})
        self.rest = AdamW(AdamWConfig(**same), rest, params, fused)
        self.by_shape: dict[torch.Size, list[int]] = {}
        for i, name in enumerate(self.names):
            self.by_shape.setdefault(torch.Size((*self.lead, *table[name].shape)), []).append(i)

    def keep_narrow(self, copies: Mapping[str, Tensor]) -> None:
        """Those of both."""
        super().keep_narrow(copies)
        self.rest.keep_narrow(copies)

    def share(self, shards: "Shards | None") -> None:
        """Those of both."""
        super().share(shards)
        self.rest.share(shards)

    def compile(self, options: dict[str, Any] | None = None) -> None:
        """Both updates."""
        super().compile(options)
        self.rest.compile(options)

    def next_scalars(self, lr: float) -> Tensor:
        """Count a step; the rate of the matrices, then what the rest is given."""
        self.t += 1
        matrices = torch.tensor([lr * self.config.lr_factor], dtype=torch.float64)
        return torch.cat([matrices, self.rest.next_scalars(lr)])

    @torch.no_grad()
    def apply(
        self, grads: list[Tensor], scalars: Tensor, scale: Tensor | None = None, norms: Tensor | None = None
    ) -> None:
        """A step on the device alone."""
        pairs = list(zip(grads, self.is_matrix, strict=True))
        self.rest.apply([g for g, is_matrix in pairs if not is_matrix], scalars[1:], scale)
        super().apply([g for g, is_matrix in pairs if is_matrix], scalars[:1], scale)

    def update(self, grads: list[Tensor], norms: Tensor | None, *scalars: Tensor) -> None:
        """One step of the matrices."""
        (lr,) = scalars
        c, m = self.config, self.slots["m"]
        self.decay_weights(lr)
        torch._foreach_lerp_(m, grads, 1 - c.momentum)
        ahead = torch._foreach_lerp(grads, m, c.momentum) if c.nesterov else m
        for shape, members in self.by_shape.items():
            matrices = [ahead[i] for i in members]
            if self.shards:
                matrices = [self.shards.whole(self.names[i], x) for i, x in zip(members, matrices, strict=True)]
            steps = list(newton_schulz(torch.stack(matrices), c.ns_steps) * (lr * muon_scale(c, shape[-2:])))
            if self.shards:
                steps = [self.shards.part(step) for step in steps]
            torch._foreach_sub_([self.params[i] for i in members], steps)

    def named_state(self) -> dict[str, Tensor]:
        """The state itself, which the next step changes, under the names of `lm_core.optim`."""
        return {**self.rest.named_state(), **super().named_state()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the state."""
        self.rest.load(arrays)
        super().load(arrays)
