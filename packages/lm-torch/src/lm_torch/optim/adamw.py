"""Adam with decoupled weight decay, as `lm_core.optim` specifies it."""

import torch
from torch import Tensor

from lm_core.config import AdamWConfig
from lm_core.model.parameters import Table
from lm_torch.optim.base import Optimizer


class AdamW(Optimizer):
    """See `lm_core.optim`."""

    def __init__(self, config: AdamWConfig, table: Table, params: dict[str, Tensor]):
        super().__init__(config, table, params)
        self.config = config

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
