"""Length of a training run, and its intervals of logging, evaluation and saving."""

from pydantic import Field

from lm_core.config.base import Config


class LoopConfig(Config):
    """Length and intervals of a run, in steps. An interval of 0 means never, but a run is always saved when it ends."""

    max_steps: int = Field(gt=0)
    """Length of the run."""
    log_every: int = Field(20, ge=0)
    """Training records. The first step is logged too."""
    eval_every: int = Field(0, ge=0)
    """Evaluations."""
    eval_ends: bool = True
    """Evaluate the first and the last step too."""
    eval_average: bool = False
    """Evaluate, choose the best checkpoint and sample with the average of the weights that optimizer.average keeps."""
    save_every: int = Field(0, ge=0)
    """Checkpoints."""
    save_best: bool = False
    """Also save when the validation loss is the lowest so far, and keep that checkpoint until there is a better one."""
    log_norms: bool = False
    """Add the norm of each block's weights and the RMS of its activations to training records."""
    early_stop_patience: int = Field(0, ge=0)
    """Stop after this many evaluations in a row without a gain; 0 never stops."""
    early_stop_min_delta: float = Field(0.0, ge=0)
    """Smallest decrease of the loss that counts as a gain, in nats."""
    early_stop_warmup: int = Field(0, ge=0)
    """Evaluations up to this step do not count."""
