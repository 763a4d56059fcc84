"""Config of a study."""

from typing import Literal

from pydantic import Field

from lm_core.config import StepConfig
from lm_pipeline.program import ProgramConfig
from lm_pipeline.saved_model import Which


class AttentionConfig(ProgramConfig):
    """Study what the heads and layers of a trained model do, on a text."""

    checkpoint: str = ""
    """Run folder, or a Hugging Face folder; the newest run under runs/transformerlm when empty."""
    which: Which = "best"
    """Checkpoint of a run: the one with the best validation loss, or the latest."""
    tokenizer: str = ""
    """Tokenizer for a Hugging Face folder without one, as path or kind:path; a run folder has its own."""
    text: str = ""
    """Text file (UTF-8) that the model reads."""
    show: str = ""
    """Text whose attention maps are drawn; the beginning of the file when empty."""
    tokens: int = Field(16_384, gt=0)
    """Tokens of the file that are read at most, in windows of the model's context; one window at least."""
    lens_tokens: int = Field(16_384, gt=0)
    """Tokens on which the logit lens is measured, the first of those, in whole batches. The head reads them once for
    each layer."""
    ablation_tokens: int = Field(1_024, ge=0)
    """Tokens on which the loss without each head is measured, the first of those, one window at least; 0: not
    measured. The model reads them once for each head."""
    output: str = ""
    """Folder to write: attention.npz and attention.html; created if missing."""
    overwrite: bool = False
    """Replace the study that is already in output."""
    seed: int = Field(0, ge=0)
    """Seed of the random tokens."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """The framework; auto is MLX on Apple silicon, torch elsewhere."""
    step: StepConfig = StepConfig()
    """How the backend executes the model; training options have no effect."""
