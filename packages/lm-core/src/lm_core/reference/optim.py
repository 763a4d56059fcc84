"""The optimizers of `lm_core.optim` in float64 numpy: for reading, and as the oracle."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import AdamWConfig, KBetaConfig, MuonConfig, OptimizerConfig
from lm_core.model.parameters import Table
from lm_core.optim import NEWTON_SCHULZ, bucket_of, decayed, keeps_v_max, members, muon_scale, orthogonalized

Array = NDArray[np.float64]
Arrays = dict[str, Array]


class AdamW:
    """Adam with decoupled weight decay."""

    def __init__(self, config: AdamWConfig, table: Table):
        self.config, self.table = config, table
        self.step = 0
        self.m: Arrays = {name: np.zeros(p.shape) for name, p in table.items()}
        self.v: Arrays = {name: np.zeros(p.shape) for name, p in table.items()}

    def update(self, params: Arrays, grads: Mapping[str, NDArray[Any]], lr: float) -> Arrays:
        """The parameters after one step."""
        c = self.config
        self.step += 1
        c1 = 1 - c.beta1**self.step if c.bias_correction else 1.0
        c2 = 1 - c.beta2**self.step if c.bias_correction else 1.0
        params = _decay(params, decayed(c.decay_groups, self.table), lr * c.weight_decay)
        for name, g in grads.items():
            self.m[name] = c.beta1 * self.m[name] + (1 - c.beta1) * g
            self.v[name] = c.beta2 * self.v[name] + (1 - c.beta2) * g**2
            params[name] = params[name] - lr * (self.m[name] / c1) / (np.sqrt(self.v[name] / c2) + c.eps)
        return params


class KBeta:
    """Kourkoutas-beta."""

    def __init__(self, config: KBetaConfig, table: Table):
        self.config, self.table = config, table
        self.step = 0
        self.buckets = members(bucket_of(config, table))
        self.m: Arrays = {name: np.zeros(p.shape) for name, p in table.items()}
        self.v: Arrays = {name: np.zeros(p.shape) for name, p in table.items()}
        self.v_max: Arrays = {name: np.zeros(p.shape) for name, p in table.items()}
        self.grad_ema = dict.fromkeys(self.buckets, 0.0)
        self.beta2_product = dict.fromkeys(self.buckets, 1.0)
        self.sunspike = dict.fromkeys(self.buckets, 0.0)
        self.beta2 = dict.fromkeys(self.buckets, 0.0)

    def update(self, params: Arrays, grads: Mapping[str, NDArray[Any]], lr: float) -> Arrays:
        """The parameters after one step."""
        c = self.config
        self.step += 1
        params = _decay(params, decayed(c.decay_groups, self.table), lr * c.weight_decay)
        for bucket, names in self.buckets.items():
            self._adapt_beta2(
                bucket, np.sqrt(sum(float((grads[name].astype(np.float64) ** 2).sum()) for name in names))
            )
            for name in names:
                params[name] = params[name] - self._delta(name, bucket, params[name], grads[name], lr)
        return params

    def _adapt_beta2(self, bucket: str, norm: float) -> None:
        c = self.config
        self.grad_ema[bucket] = c.alpha * self.grad_ema[bucket] + (1 - c.alpha) * norm
        ratio = norm / (self.grad_ema[bucket] + c.tiny_spike)
        if self.step <= c.warmup_steps:
            self.sunspike[bucket], self.beta2[bucket] = 0.0, (c.beta2_min + c.beta2_max) / 2
        else:
            self.sunspike[bucket] = ratio / (1 + ratio)
            self.beta2[bucket] = c.beta2_max - (c.beta2_max - c.beta2_min) * self.sunspike[bucket]
        self.beta2_product[bucket] *= self.beta2[bucket]

    def _delta(self, name: str, bucket: str, p: Array, g: NDArray[Any], lr: float) -> Array:
        c, beta2 = self.config, self.beta2[bucket]
        self.m[name] = c.beta1 * self.m[name] + (1 - c.beta1) * g
        self.v[name] = w = beta2 * self.v[name] + (1 - beta2) * g**2
        if keeps_v_max(c):
            leak = 1.0 if c.decay is None else c.decay
            self.v_max[name] = w = np.maximum(leak * self.v_max[name], w)
        tiny = c.tiny_denom * max(float(np.abs(p).mean()), 1.0) if c.adaptive_tiny else 0.0
        c1, c2 = self._corrections(bucket)
        delta = lr * (self.m[name] / c1) / (np.sqrt(w / c2) + tiny + c.eps)
        return delta if c.max_ratio is None else np.clip(delta, -lr * c.max_ratio, lr * c.max_ratio)

    def _corrections(self, bucket: str) -> tuple[float, float]:
        c = self.config
        c1 = 1 - c.beta1**self.step
        match c.bias_correction:
            case "none":
                return 1.0, 1.0
            case "beta2max":
                return c1, 1 - c.beta2_max**self.step
            case "exact":
                return c1, 1 - self.beta2_product[bucket]


class Muon:
    """Muon for the matrices of the blocks, AdamW for the rest."""

    def __init__(self, config: MuonConfig, table: Table):
        self.config = config
        self.matrices = {name: table[name] for name in orthogonalized(table)}
        self.m: Arrays = {name: np.zeros(p.shape) for name, p in self.matrices.items()}
        self.decayed = set(decayed(config.decay_groups, table))
        same = config.model_dump(include={"beta1", "beta2", "eps", "weight_decay", "decay_groups"})
        self.rest = AdamW(AdamWConfig(**same), {n: p for n, p in table.items() if n not in self.matrices})

    def update(self, params: Arrays, grads: Mapping[str, NDArray[Any]], lr: float) -> Arrays:
        """The parameters after one step."""
        rest = {name: p for name, p in params.items() if name not in self.matrices}
        updated = self.rest.update(rest, {name: grads[name] for name in rest}, lr)
        for name in self.matrices:
            updated[name] = self._stepped(name, params[name], grads[name], lr * self.config.lr_factor)
        return {name: updated[name] for name in params}

    def _stepped(self, name: str, p: Array, g: NDArray[Any], lr: float) -> Array:
        c = self.config
        self.m[name] = c.momentum * self.m[name] + (1 - c.momentum) * g
        ahead = (1 - c.momentum) * g + c.momentum * self.m[name] if c.nesterov else self.m[name]
        if name in self.decayed:
            p = p * (1 - lr * c.weight_decay)
        return p - lr * muon_scale(c, p.shape) * newton_schulz(ahead, c.ns_steps)


def newton_schulz(matrix: Array, steps: int) -> Array:
    """[rows, columns] -> about the nearest semi-orthogonal matrix: the singular values go towards 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return np.asarray(x.T if tall else x)


def reference_optimizer(config: OptimizerConfig, table: Table) -> AdamW | KBeta | Muon:
    """The oracle for a config."""
    match config:
        case AdamWConfig():
            return AdamW(config, table)
        case KBetaConfig():
            return KBeta(config, table)
        case MuonConfig():
            return Muon(config, table)


def _decay(params: Arrays, names: list[str], amount: float) -> Arrays:
    """A copy of the parameters in which those named have shrunk by `amount`."""
    shrunk = set(names) if amount else set()
    return {name: p * (1 - amount) if name in shrunk else p for name, p in params.items()}
