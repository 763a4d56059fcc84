"""Kourkoutas-beta, as `lm_core.optim` specifies it: a port of the `kbeta` package with every option of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_core.config import KBetaConfig
from lm_core.model.parameters import Table
from lm_core.optim import bucket_of, keeps_v_max, members
from lm_torch.clip import norms_of, spread
from lm_torch.optim.base import Optimizer


class KBeta(Optimizer):
    """See `lm_core.optim`. What is kept per bucket is a vector over the buckets, or of each seed one, [K, buckets]."""

    def __init__(self, config: KBetaConfig, table: Table, params: dict[str, Tensor], fused: bool = True):
        super().__init__(config, table, params)
        self.config = config
        bucket = bucket_of(config, table)
        self.buckets = list(members(bucket))
        self.bucket_index = [self.buckets.index(bucket[name]) for name in self.names]
        # [buckets, parameters]: a product with it adds up over buckets in a fixed order, on a GPU too.
        self.membership = torch.zeros(len(self.buckets), len(self.names), device=self.device)
        self.membership[self.bucket_index, range(len(self.names))] = 1.0
        shape = *self.lead, len(self.buckets)
        self.grad_ema = torch.zeros(shape, device=self.device)
        self.beta2_product = torch.ones(shape, device=self.device)
        self.sunspike = torch.zeros(shape, device=self.device)
        self.beta2 = torch.zeros(shape, device=self.device)
        if keeps_v_max(config):
            self.add_slot("v_max")
        self.places = torch.tensor(self.bucket_index, device=self.device)
        if fused:
            self.update_by_kernel()

    def corrections(self) -> tuple[float, ...]:
        """c1, c2, and 1 while beta2 is held; "exact" takes its c2 from the product of the beta2 used, on the device."""
        c, warming_up = self.config, float(self.t <= self.config.warmup_steps)
        if c.bias_correction == "none":
            return 1.0, 1.0, warming_up
        return 1 - c.beta1**self.t, 1 - c.beta2_max**self.t, warming_up

    @torch.no_grad()
    def apply(
        self, grads: list[Tensor], scalars: Tensor, scale: Tensor | None = None, norms: Tensor | None = None
    ) -> None:
        """A step on the device alone."""
        if not self.own:
            super().apply(grads, scalars, scale, norms)
            return
        c, exact = self.config, scalars.float()
        norms = norms_of(grads, self.lead) if norms is None else norms
        self._adapt_beta2(norms if scale is None else norms * scale.unsqueeze(-1), exact[3] > 0)
        rest = (1 - self.beta2)[..., self.places]
        if c.bias_correction == "exact":
            root = (1 - self.beta2_product).sqrt()[..., self.places]
        else:
            root = exact[2].sqrt().expand(rest.shape).contiguous()
        tiny = torch.stack(self._tiny(), dim=-1) if c.adaptive_tiny else None
        self.own(grads, exact, rest, root, c.beta1, c.eps, scale, tiny, c.max_ratio, c.decay)

    def update(self, grads: list[Tensor], norms: Tensor | None, *scalars: Tensor) -> None:
        """One step."""
        lr, c1, c2, warming_up = scalars
        c, m, v = self.config, self.slots["m"], self.slots["v"]
        self.decay_weights(lr)
        self._adapt_beta2(norms_of(grads, self.lead) if norms is None else norms, warming_up > 0)
        rest = self._of_each(1 - self.beta2)
        torch._foreach_lerp_(m, grads, 1 - c.beta1)
        _lerp_each_(v, torch._foreach_mul(grads, grads), rest)
        w = self._running_max(v) if keeps_v_max(c) else v
        denominator = torch._foreach_sqrt(w)
        if c.bias_correction == "exact":
            torch._foreach_div_(denominator, self._of_each((1 - self.beta2_product).sqrt()))
        elif c.bias_correction == "beta2max":
            torch._foreach_div_(denominator, c2.sqrt())
        if c.adaptive_tiny:
            tiny = [spread(one, p) for one, p in zip(self._tiny(), self.params, strict=True)]
            torch._foreach_add_(denominator, tiny)
        torch._foreach_add_(denominator, c.eps)
        delta = torch._foreach_div(m, denominator)
        torch._foreach_div_(delta, c1)
        if c.max_ratio is not None:
            torch._foreach_clamp_min_(delta, -c.max_ratio)
            torch._foreach_clamp_max_(delta, c.max_ratio)
        torch._foreach_mul_(delta, lr)
        torch._foreach_sub_(self.params, delta)

    def _tiny(self) -> list[Tensor]:
        """What is added to eps, by the mean of |p| of each parameter, `lead`."""
        if self.shards:
            sizes = self.shards.mean_sizes(self.names, self.params)
        else:
            sizes = [p.abs().flatten(len(self.lead)).mean(-1) for p in self.params]
        return [self.config.tiny_denom * size.clamp(min=1.0) for size in sizes]

    def _of_each(self, values: Tensor) -> list[Tensor]:
        """Values of the buckets, [*lead, buckets], as factors of each parameter."""
        of_buckets = values.unbind(-1)
        chosen = [of_buckets[i] for i in self.bucket_index]
        return [spread(value, p) for value, p in zip(chosen, self.params, strict=True)]

    def _adapt_beta2(self, norms: Tensor, warming_up: Tensor) -> None:
        """The bucket's gradient norm against its average decides the bucket's beta2."""
        c = self.config
        norm = (norms.square() @ self.membership.t()).sqrt()
        self.grad_ema.lerp_(norm, 1 - c.alpha)
        ratio = norm / (self.grad_ema + c.tiny_spike)
        self.sunspike.copy_(torch.where(warming_up, 0.0, ratio / (1 + ratio)))
        adapted = c.beta2_max - (c.beta2_max - c.beta2_min) * self.sunspike
        self.beta2.copy_(torch.where(warming_up, (c.beta2_min + c.beta2_max) / 2, adapted))
        self.beta2_product.mul_(self.beta2)

    def _running_max(self, v: list[Tensor]) -> list[Tensor]:
        v_max = self.slots["v_max"]
        if self.config.decay is not None:
            torch._foreach_mul_(v_max, self.config.decay)
        torch._foreach_maximum_(v_max, v)
        return v_max

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """The sunspike and beta2 of each bucket in the last step."""
        return {
            "sunspike": dict(zip(self.buckets, self.sunspike.t().tolist(), strict=True)),
            "beta2": dict(zip(self.buckets, self.beta2.t().tolist(), strict=True)),
        }

    def named_state(self) -> dict[str, Tensor]:
        """The state itself, which the next step changes, under the names of `lm_core.optim`."""
        state = super().named_state()
        for kind, vector in (("grad_ema", self.grad_ema), ("beta2_product", self.beta2_product)):
            state |= {f"{kind}.{bucket}": vector[..., i] for i, bucket in enumerate(self.buckets)}
        return state

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the state."""
        super().load(arrays)
        for kind, vector in (("grad_ema", self.grad_ema), ("beta2_product", self.beta2_product)):
            of_each = [np.asarray(arrays[f"{kind}.{bucket}"], np.float32) for bucket in self.buckets]
            vector.copy_(torch.from_numpy(np.stack(of_each, axis=-1)))


def _lerp_each_(starts: list[Tensor], ends: tuple[Tensor, ...], weights: list[Tensor]) -> None:
    """start + weight (end - start), in place; weights are 0-dimensional."""
    if not torch.compiler.is_compiling():
        torch._foreach_lerp_(starts, ends, weights)
        return
    # The compiler does not know this one, and would call it apart, tensor by tensor.
    differences = torch._foreach_sub(ends, starts)
    torch._foreach_add_(starts, torch._foreach_mul(differences, weights))
