"""The optimizers and their settings; the equations are in `lm_core.optim`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lm_core.config.base import Config

DecayGroup = Literal["matrix", "embed", "bias", "norm"]


class _Common(Config):
    """Options of every optimizer."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled: p <- p (1 - lr weight_decay) before the update, with the parameter's learning rate."""
    decay_groups: tuple[DecayGroup, ...] = ("matrix",)
    """Which parameter groups decay."""
    grad_clip: float = Field(0.0, ge=0)
    """Largest global gradient norm: larger gradients are scaled down to it; 0 does not clip."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of an average of the weights that is kept beside them (Polyak and Juditsky 1992); 0: none."""


class AdamWConfig(_Common):
    """Adam with bias correction and decoupled weight decay; the equations are in `lm_core.optim`."""

    name: Literal["adamw"] = "adamw"
    """Which optimizer this is."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient average."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the squared-gradient average."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    bias_correction: bool = True
    """Divide the averages by 1 - beta^t."""


class KBetaConfig(_Common):
    """Kourkoutas-beta (arXiv 2508.12996): Adam whose beta2 follows the gradient norm of each bucket."""

    name: Literal["kbeta"] = "kbeta"
    """Which optimizer this is."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient average."""
    beta2_max: float = Field(0.999, ge=0, lt=1)
    """beta2 when the sunspike is 0."""
    beta2_min: float = Field(0.9, ge=0, lt=1)
    """beta2 as the sunspike goes to 1."""
    alpha: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient-norm average."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    tiny_spike: float = Field(1e-8, gt=0)
    """Added to the norm average in the sunspike's ratio."""
    tiny_denom: float = Field(1e-8, ge=0)
    """Scale of the adaptive term of the denominator."""
    decay: float | None = Field(None, ge=0, le=1)
    """Leak of the running maximum of v; no maximum is kept when neither this nor max_ratio is given."""
    max_ratio: float | None = Field(None, gt=0)
    """Clip every element of the step to lr max_ratio."""
    adaptive_tiny: bool = False
    """Add tiny_denom max(mean|p|, 1) to the denominator."""
    bias_correction: Literal["none", "beta2max", "exact"] = "none"
    """How m and v are corrected; see `lm_core.optim`."""
    warmup_steps: int = Field(0, ge=0)
    """Steps during which beta2 is held at the middle of its range (this does not warm up the learning rate)."""
    buckets: Literal["global", "shape", "per-array"] = "global"
    """Which parameters share a gradient norm and a beta2."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.beta2_min > self.beta2_max:
            raise ValueError(f"beta2_min {self.beta2_min} is above beta2_max {self.beta2_max}")
        return self


class MuonConfig(_Common):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for everything else."""

    name: Literal["muon"] = "muon"
    """Which optimizer this is."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of the gradient average of the block matrices."""
    nesterov: bool = True
    """Look one step ahead along the average."""
    ns_steps: int = Field(5, gt=0)
    """Newton-Schulz iterations that make the average's singular values about 1."""
    scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """Size of a step: AdamW's, 0.2 sqrt(max(rows, columns)), or Muon's first, sqrt(max(1, rows / columns))."""
    lr_factor: float = Field(1.0, gt=0)
    """The block matrices' learning rate, as a factor of the schedule's; the rest takes the schedule's."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the gradient average."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay of the squared-gradient average."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's addition to the root of the second moment."""


OptimizerConfig = AdamWConfig | KBetaConfig | MuonConfig
