"""Adam with decoupled weight decay, as `lm_core.optim` specifies it."""

import math

import torch
from torch import Tensor

from lm_core.config import AdamWConfig
from lm_core.model.parameters import Table
from lm_torch.clip import scaled_
from lm_torch.narrow import wide_like
from lm_torch.optim.base import Optimizer


class AdamW(Optimizer):
    """See `lm_core.optim`. Fused is a kernel: this project's, or torch's own; else `update`."""

    def __init__(self, config: AdamWConfig, table: Table, params: dict[str, Tensor], fused: bool = True):
        super().__init__(config, table, params)
        self.config, self.fused = config, fused
        if fused:
            self.update_by_kernel()
        decayed_ones = {id(p) for p in self.decayed}
        places: dict[float, list[int]] = {}
        for i, p in enumerate(self.params):
            places.setdefault(config.weight_decay if id(p) in decayed_ones else 0.0, []).append(i)
        self.places = places
        """Weight decay -> the places of the parameters that have it."""

    def next_scalars(self, lr: float) -> Tensor:
        """Count a step; the learning rate and the corrections, or for torch's kernel the number of the step."""
        if self.own or not self.fused:
            return super().next_scalars(lr)
        self.t += 1
        # The kernel corrects by 1 - beta^step, which at an infinite step is 1.
        step = float(self.t) if self.config.bias_correction else math.inf
        return torch.tensor([lr, step], dtype=torch.float64)

    @torch.no_grad()
    def apply(
        self, grads: list[Tensor], scalars: Tensor, scale: Tensor | None = None, norms: Tensor | None = None
    ) -> None:
        """A step on the device alone."""
        if not self.fused:
            super().apply(grads, scalars, scale)
            return
        c = self.config
        if self.own:
            exact = scalars.float()
            rest = torch.full((*self.lead, len(self.params)), 1 - c.beta2, device=self.device)
            root = exact[2].sqrt().expand(rest.shape).contiguous()
            self.own(grads, exact, rest, root, c.beta1, c.eps, scale)
            return
        grads = wide_like(self.params, grads)
        on_cpu = self.device.type == "cpu"
        if scale is not None and (on_cpu or scale.ndim):
            scaled_(grads, scale)
            scale = None
        lr, step = scalars.float().unbind()
        for decay, chosen in self.places.items():
            params, gs, m, v = (
                [tensors[i] for i in chosen] for tensors in (self.params, grads, self.slots["m"], self.slots["v"])
            )
            torch._fused_adamw_(
                params, gs, m, v, [], [step] * len(chosen), lr=scalars[0].item() if on_cpu else lr,
                beta1=c.beta1, beta2=c.beta2, eps=c.eps, weight_decay=decay, amsgrad=False, maximize=False,
                # It divides by this one where it reads a gradient.
                grad_scale=None if scale is None else 1 / scale,
            )  # fmt: skip
        self.narrow.update()

    def corrections(self) -> tuple[float, float]:
        """1 - beta^t, or 1."""
        c = self.config
        return (1 - c.beta1**self.t, 1 - c.beta2**self.t) if c.bias_correction else (1.0, 1.0)

    def update(self, grads: list[Tensor], norms: Tensor | None, *scalars: Tensor) -> None:
        """One step."""
        lr, c1, c2 = scalars
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
