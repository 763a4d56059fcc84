"""Kourkoutas-beta by its author's package, with the package's traps closed.

The package keys its state by `id(p)` by default, updates arrays in place, keeps neither its
hyperparameters nor its warm-up in its state, and measures beta2 only together with costly statistics. Here the keys are
bucket names, the arrays it may change are its own, the config travels in the checkpoint, and sunspike and beta2 are
computed beside it.
"""

from typing import Any

import mlx.core as mx
from kbeta.optim import KourkoutasBeta
from numpy.typing import NDArray

from lm_core.config import KBetaConfig
from lm_core.model.parameters import Table
from lm_core.optim import bucket_of, keeps_v_max, members
from lm_mlx.optim.base import Arrays, Optimizer


class KBeta(Optimizer):
    """See `lm_core.optim`."""

    def __init__(self, config: KBetaConfig, table: Table):
        super().__init__(config, table)
        self.config = config
        self.bucket = bucket_of(config, table)
        self.members = members(self.bucket)
        self.slot_kinds = ["m", "v", "v_max"] if keeps_v_max(config) else ["m", "v"]
        self.key_of: dict[int, str] = {}
        self.package = KourkoutasBeta(
            learning_rate=0.0,
            layer_key_fn=lambda p: self.key_of[id(p)],
            **config.model_dump(exclude={"name", "buckets", "weight_decay", "decay_groups", "grad_clip", "average"}),
        )
        self.package.init({name: mx.zeros(parameter.shape) for name, parameter in table.items()})
        stats = self.package.state["_layer_stats"]
        stats.update({bucket: {"grad_ema": mx.array(0.0)} for bucket in self.members})
        self.state["package"] = self.package.state
        self.state["sunspike"] = mx.zeros(len(self.members))
        self.state["beta2"] = mx.zeros(len(self.members))

    def corrections(self) -> tuple[float, float]:
        """Unused: the package computes its own from its own step counter."""
        return 1.0, 1.0

    def update(self, params: Arrays, grads: Arrays, scalars: mx.array) -> Arrays:
        """The parameters after one step."""
        lr = scalars[0]
        params = self.decay_weights(params, lr)
        self.key_of = {id(p): self.bucket[name] for name, p in params.items()}
        self.package.state["learning_rate"] = lr
        params = self.package.apply_gradients(grads, params)
        self._observe(grads)
        return params

    def _observe(self, grads: Arrays) -> None:
        """The sunspike and beta2 that the package has just used."""
        c, package = self.config, self.package.state
        squares = {name: mx.sum(mx.square(g)) for name, g in grads.items()}
        norm = mx.sqrt(
            mx.stack([sum((squares[name] for name in names), mx.array(0.0)) for names in self.members.values()])
        )
        ratio = norm / (
            mx.stack([package["_layer_stats"][bucket]["grad_ema"] for bucket in self.members]) + c.tiny_spike
        )
        warm = package["step"] > c.warmup_steps
        self.state["sunspike"] = mx.where(warm, ratio / (1 + ratio), 0.0)
        adapted = c.beta2_max - (c.beta2_max - c.beta2_min) * self.state["sunspike"]
        self.state["beta2"] = mx.where(warm, adapted, (c.beta2_min + c.beta2_max) / 2)
        if c.bias_correction == "none":  # then the package does not keep the product, but the state has one
            for beta2, names in zip(self.state["beta2"], self.members.values(), strict=True):
                for name in names:
                    package[name]["beta2_cumprod"] = package[name]["beta2_cumprod"] * beta2

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """The sunspike and beta2 of each bucket in the last step."""
        return {kind: dict(zip(self.members, self.state[kind].tolist(), strict=True)) for kind in ("sunspike", "beta2")}

    def named_state(self) -> Arrays:
        """The state by name. The package keeps a beta2 product per array; within a bucket they are all the same."""
        package = self.package.state
        named: Arrays = {"step": mx.array(self.t, dtype=mx.int64)}
        for kind in self.slot_kinds:
            named |= {f"{kind}.{name}": package[name][kind] for name in self.table}
        for bucket, names in self.members.items():
            named[f"grad_ema.{bucket}"] = package["_layer_stats"][bucket]["grad_ema"]
            named[f"beta2_product.{bucket}"] = package[names[0]]["beta2_cumprod"]
        return named

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace the state."""
        package = self.package.state
        self.t = int(arrays["step"])
        package["step"] = mx.array(self.t, dtype=mx.int64)
        for name, bucket in self.bucket.items():
            package[name] |= {kind: mx.array(arrays[f"{kind}.{name}"]) for kind in self.slot_kinds}
            package[name]["beta2_cumprod"] = mx.array(arrays[f"beta2_product.{bucket}"])
            package["_layer_stats"][bucket]["grad_ema"] = mx.array(arrays[f"grad_ema.{bucket}"])
