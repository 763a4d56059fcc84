"""Adam with decoupled weight decay, as `lm_core.optim` specifies it."""

import math

import torch
from torch import Tensor

from lm_core.config import AdamWConfig
from lm_core.model.parameters import Table
from lm_torch.optim.base import Optimizer


class AdamW(Optimizer):
    """See `lm_core.optim`. Fused is torch's own kernel, which reads and writes everything once; else `update`."""

    def __init__(self, config: AdamWConfig, table: Table, params: dict[str, Tensor], fused: bool = True):
        super().__init__(config, table, params)
        self.config, self.fused = config, fused
        decayed_ones = {id(p) for p in self.decayed}
        places: dict[float, list[int]] = {}
        for i, p in enumerate(self.params):
            places.setdefault(config.weight_decay if id(p) in decayed_ones else 0.0, []).append(i)
        self.places = places
        """Weight decay -> the places of the parameters that have it."""

    def step(self, grads: list[Tensor], lr: float) -> None:
        """Update the parameters with gradients in the order of the table."""
        if self.fused:
            self.t += 1
            self._fused_update(grads, lr)
        else:
            super().step(grads, lr)

    @torch.no_grad()
    def _fused_update(self, grads: list[Tensor], lr: float) -> None:
        c = self.config
        # The kernel corrects by 1 - beta^step, which at an infinite step is 1.
        step = torch.tensor(float(self.t) if c.bias_correction else math.inf, device=self.device)
        for decay, chosen in self.places.items():
            params, gs, m, v = (
                [tensors[i] for i in chosen] for tensors in (self.params, grads, self.slots["m"], self.slots["v"])
            )
            torch._fused_adamw_(
                params, gs, m, v, [], [step] * len(chosen), lr=lr, beta1=c.beta1, beta2=c.beta2, eps=c.eps,
                weight_decay=decay, amsgrad=False, maximize=False,
            )  # fmt: skip

    def corrections(self) -> tuple[float, float]:
        """1 - beta^t, or 1."""
        c = self.config
        return (1 - c.beta1**self.t, 1 - c.beta2**self.t) if c.bias_correction else (1.0, 1.0)

    def update(self, grads: list[Tensor], lr: Tensor, c1: Tensor, c2: Tensor) -> None:
        """One step."""
        c, m, v = self.config, self.slots["m"], self.slots["v"]
        self.decay_weights(lr)
        torch._foreach_lerp_(m, grads, 1 - c.beta1)
        torch._foreach_mul_(v, c.beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - c.beta2)
        denominator = torch._foreach_sqrt(v)
        torch._foreach_div_(denominator, c2.sqrt())
        torch._foreach_add_(denominator, c.eps)
        torch._foreach_div_(denominator, -lr / c1)
        torch._foreach_addcdiv_(self.params, m, denominator)
