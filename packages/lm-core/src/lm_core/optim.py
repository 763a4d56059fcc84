"""The optimizers' specifications. Backends implement these equations; `lm_core.reference.optim` is their oracle.

Notation: p parameter, g its gradient (after clipping), t the step counted from 1, all per element unless said.
Clipping by global norm: g <- g min(1, grad_clip / (|g| + 1e-6)), |g| over all parameters.
Weight decay is decoupled (Loshchilov and Hutter 2019): p <- p (1 - lr weight_decay) first, for the decay groups.

AdamW (Kingma and Ba 2015, algorithm 1)
    m <- beta1 m + (1 - beta1) g              v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    Without bias_correction both divisors are 1.

Kourkoutas-beta (arXiv 2508.12996v2; the `kbeta` package), per bucket:
    n   = sqrt(sum of g^2 over the bucket)    e <- alpha e + (1 - alpha) n
    r   = n / (e + tiny_spike)                sunspike = r / (1 + r)
    beta2 = beta2_max - (beta2_max - beta2_min) sunspike
    while t <= warmup_steps: sunspike = 0, beta2 = (beta2_min + beta2_max) / 2
  then per parameter, with its bucket's beta2:
    m, v as in Adam
    w = max(decay w, v) if decay is given, max(w, v) if only max_ratio is, else w = v      (w starts at 0)
    tiny  = tiny_denom max(mean |p|, 1) if adaptive_tiny else 0
    delta = lr (m / c1) / (sqrt(w / c2) + tiny + eps), clipped to +- lr max_ratio if that is given
    p <- p - delta
    bias_correction none: c1 = c2 = 1; beta2max: c1 = 1 - beta1^t, c2 = 1 - beta2_max^t;
    exact: c1 as before, c2 = 1 - the product of the beta2 this bucket has used.
  A steady gradient norm has r = 1, so beta2 sits in the middle of its range, not at beta2_max.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"), per matrix of a block:
    m <- momentum m + (1 - momentum) g        u = (1 - momentum) g + momentum m if nesterov, else m
    X = u / (|u| + 1e-7), transposed if it has more rows than columns;    ns_steps times:
        A = X X^T    X <- a X + (b A + c A A) X    with (a, b, c) = (3.4445, -4.7750, 2.0315)
    p <- p - lr lr_factor s X, transposed back
    s = 0.2 sqrt(max(rows, columns)) for match_rms_adamw (Liu et al. 2025, arXiv 2502.16982, equation 4),
    sqrt(max(1, rows / columns)) for original.
  What is not a matrix of a block (embeddings, head, norms, biases) takes AdamW's step with bias correction. Weight
  decay comes first, as everywhere, with the rate of the parameter: lr lr_factor for the matrices of the blocks.

With `average` d > 0, an average of the weights is kept (Polyak and Juditsky 1992), which starts at the initial ones:
    a <- d a + (1 - d) p after each step; it has no part in training.

State, by name, in checkpoints of either backend: `step`; `m.{parameter}`; `v.{parameter}`, but for
what Muon orthogonalizes; `v_max.{parameter}`; `grad_ema.{bucket}`, `beta2_product.{bucket}`;
`average.{parameter}`. All float32 but `step`,
an int64.
"""

import math
from collections.abc import Mapping

from lm_core.config import DecayGroup, KBetaConfig, MuonConfig, OptimizerConfig
from lm_core.model.parameters import Table

GLOBAL_BUCKET = "all"
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Muon's quintic: its slope at 0 is as steep as it can be while values near 1 stay within about 0.7 and 1.2."""


def bucket_of(config: KBetaConfig, table: Table) -> dict[str, str]:
    """Parameter name -> bucket name, in the table's order. The names are strings, so state survives a checkpoint."""
    if config.buckets == "global":
        return dict.fromkeys(table, GLOBAL_BUCKET)
    if config.buckets == "shape":
        return {name: "x".join(map(str, parameter.shape)) for name, parameter in table.items()}
    return {name: name for name in table}


def members(bucket: Mapping[str, str]) -> dict[str, list[str]]:
    """Bucket name -> the parameters in it, both in the table's order."""
    result: dict[str, list[str]] = {}
    for name, key in bucket.items():
        result.setdefault(key, []).append(name)
    return result


def decayed(groups: tuple[DecayGroup, ...], table: Table) -> list[str]:
    """The parameters that weight decay applies to."""
    return [name for name, parameter in table.items() if parameter.group in groups]


def keeps_v_max(config: KBetaConfig) -> bool:
    """Whether a running maximum of v is part of the state."""
    return config.decay is not None or config.max_ratio is not None


def orthogonalized(table: Table) -> list[str]:
    """The parameters that Muon takes: the matrices of the blocks."""
    return [name for name, p in table.items() if p.group == "matrix" and name.startswith("blocks.")]


def muon_scale(config: MuonConfig, shape: tuple[int, ...]) -> float:
    """s of the specification for a matrix of [rows, columns]."""
    rows, columns = shape
    if config.scale == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def state_shapes(config: OptimizerConfig, table: Table) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of the optimizer's state, as a checkpoint holds them."""
    shapes: dict[str, tuple[int, ...]] = {"step": ()}
    without_v = set(orthogonalized(table)) if isinstance(config, MuonConfig) else set()
    shapes |= {f"m.{name}": parameter.shape for name, parameter in table.items()}
    shapes |= {f"v.{name}": parameter.shape for name, parameter in table.items() if name not in without_v}
    if isinstance(config, KBetaConfig):
        if keeps_v_max(config):
            shapes |= {f"v_max.{name}": parameter.shape for name, parameter in table.items()}
        for bucket in members(bucket_of(config, table)):
            shapes[f"grad_ema.{bucket}"] = ()
            shapes[f"beta2_product.{bucket}"] = ()
    if config.average:
        shapes |= {f"average.{name}": parameter.shape for name, parameter in table.items()}
    return shapes
