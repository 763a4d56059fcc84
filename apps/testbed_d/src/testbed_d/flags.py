"""The flags of Testbed D, spelled as in the original script; `workload` translates them into the project's terms."""

from typing import Literal

from pydantic import Field

from lm_core.run.app import RunFlags


class Flags(RunFlags):
    """Train a character language model with Kourkoutas-beta or Adam, and compare what they reach."""

    text: str = ""
    """UTF-8 text to train on; without it, 5 MB of this Python's own standard library."""
    steps: int = Field(60000, gt=0)
    """Optimizer steps."""
    batch: int = Field(64, gt=0)
    """Rows per step."""
    d_model: int = Field(256, gt=0)
    """Width of the residual stream."""
    n_layer: int = Field(6, gt=0)
    """Blocks."""
    n_head: int = Field(4, gt=0)
    """Attention heads; must divide d_model."""
    lmin: int = Field(64, gt=0)
    """Shortest window, in characters."""
    lmax: int = Field(256, gt=0)
    """Longest window; capped at ctx."""
    ctx: int = Field(256, gt=0)
    """Context length of the model, in characters."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate, unless lr_schedule gives one."""
    warmup: int = Field(200, ge=0)
    """Steps during which K-beta holds beta2 at the middle of its range (not a learning-rate warm-up)."""
    opt: Literal["kbeta", "adam"] = "kbeta"
    """Optimizer: Kourkoutas-beta or Adam."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Adam's beta2."""
    eval_every: int = Field(2000, ge=0)
    """Evaluate every so many steps, and at the first and the last; 0: at these alone."""
    layer_bucket: Literal["global", "shape", "per-array"] = "global"
    """Which parameters share a K-beta beta2."""
    burst_rate: float = Field(0.0, ge=0, le=1)
    """Part of the steps that read another text, in bursts of burst_length steps; 0: none (docs/testbed_d.md)."""
    burst_length: int = Field(5, gt=0)
    """Steps of a burst."""
    burst_text: str = ""
    """Text of the bursts; without it, the training text with its alphabet reversed, a foreign language of its own."""
    len_bucket: int = Field(32, gt=0)
    """Round window lengths up to a multiple of this, so that fewer shapes are compiled; 1 disables."""
    lr_schedule: str = ""
    """Piecewise-constant rates, as in "0:3e-4,20000:1.5e-4"."""
    barrier_every: int = Field(1, gt=0)
    """MLX: evaluate the lazy graph every so many steps."""
    val_frac: float = Field(0.1, gt=0, lt=1)
    """Part of the text, at its end, that is held out."""
    eval_bs: int = Field(128, gt=0)
    """Rows of the frozen validation batch, each min(256, ctx) characters."""
    fixed_eval_seed: int = Field(1234, ge=0)
    """Seed of the validation batch."""
    deterministic: bool = False
    """Every window has length lmax, and K-beta has one bucket per array; torch adds up in a fixed order."""
    wd: float = Field(0.0, ge=0)
    """Decoupled weight decay, on matrices."""
    wd_bias: bool = False
    """Decay biases too."""
    wd_norm: bool = False
    """Decay norms too."""
    wd_embed: bool = False
    """Decay embeddings too."""
    early_stop_patience: int = Field(0, ge=0)
    """Stop after so many evaluations in a row without a gain; 0 never stops."""
    early_stop_min_delta: float = Field(0.0, ge=0)
    """Smallest gain that counts, in nats."""
    early_stop_warmup: int = Field(0, ge=0)
    """Evaluations up to this step do not count."""
    save_every: int = Field(1000, ge=0)
    """Save a checkpoint every so many steps; 0: only at the end and on Ctrl-C."""
    log_every: int = Field(20, ge=0)
    """Log training metrics every so many steps, and at the first; 0: there alone."""
    sample: int = Field(200, ge=0)
    """Characters to sample at the end."""
    kbeta_bias_correction: Literal["none", "beta2max", "exact"] = "beta2max"
    """K-beta's bias correction; beta2max hides a learning-rate warm-up (docs/testbed_d.md)."""
    lr_warmup: int = Field(0, ge=0)
    """Linear learning-rate warm-up, for either optimizer."""
    hidden_warmup: bool = False
    """Give Adam the learning-rate warm-up that K-beta's beta2max correction hides: times
    sqrt((1 - 0.999^t) / (1 - hidden_beta2^t))."""
    hidden_beta2: float = Field(0.0, ge=0, lt=1)
    """beta2 behind that warm-up: K-beta's is near 0.94; 0: adam_beta2, which must then be below 0.999."""
