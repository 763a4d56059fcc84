"""What is due when in a training run."""

from pydantic import Field

from lm_core.config.base import Config


class LoopConfig(Config):
    """When what is due; all in steps. An interval of 0 means never, but a run is always saved when it ends."""

    max_steps: int = Field(gt=0)
    """Length of the run."""
    log_every: int = Field(20, ge=0)
    """Training records. The first step is logged too."""
    eval_every: int = Field(0, ge=0)
    """Evaluations."""
    eval_ends: bool = True
    """Evaluate the first and the last step too."""
    save_every: int = Field(0, ge=0)
    """Checkpoints."""
    save_best: bool = False
    """Save also where the validation loss is the lowest so far, and keep that checkpoint until there is a better."""
    log_norms: bool = False
    """Training records also hold the norm of each block's weights and the size of its activations."""
    early_stop_patience: int = Field(0, ge=0)
    """Stop after so many evaluations in a row without a gain; 0 never stops."""
    early_stop_min_delta: float = Field(0.0, ge=0)
    """What counts as a gain, in nats."""
    early_stop_warmup: int = Field(0, ge=0)
    """Evaluations up to this step do not count."""
