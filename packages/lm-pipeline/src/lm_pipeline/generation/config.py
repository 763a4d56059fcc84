"""Config of inference."""

from typing import Literal

from pydantic import Field, field_validator

from lm_core.config import Config, SamplingConfig, StepConfig
from lm_pipeline.commands.train_config import WandbConfig
from lm_pipeline.program import ProgramConfig
from lm_pipeline.saved_model import Weights, Which


class InferLogging(Config):
    """Logging of the records, one per text."""

    file: str = ""
    """File to append JSON lines to; none when empty."""
    backend: tuple[Literal["wandb"], ...] = ()
    """wandb: the records become an artifact of a W&B run."""


class InferConfig(ProgramConfig):
    """Continue prompts with a trained model."""

    checkpoint: str = ""
    """Run folder, or a Hugging Face folder; the newest run under runs/transformerlm when empty."""
    which: Which = "best"
    """Checkpoint of a run: the one with the best validation loss, or the latest."""
    weights: Weights = "evaluated"
    """Weights of a run: those that its validation loss is of, the trained ones, or the average that it kept of them."""
    tokenizer: str = ""
    """Tokenizer for a Hugging Face folder without one, as path or kind:path; a run folder has its own."""
    prompt: tuple[str, ...] = ()
    """Texts to continue; "-" is standard input, which is also read when it is a pipe and no prompt is given."""
    prompts_file: str = ""
    """Text file with one prompt per line."""
    n: int = Field(1, gt=0)
    """Continuations of each prompt."""
    max_new_tokens: int = Field(200, gt=0)
    """Maximum number of tokens of a continuation."""
    stop: tuple[str, ...] = ()
    """Strings that end a continuation; they are not part of it."""
    ignore_eos: bool = False
    """Continue past the end-of-text token."""
    seed: int = Field(0, ge=0)
    """Seed of the first continuation; each further one uses the next seed."""
    batch_size: int = Field(16, gt=0)
    """Maximum number of continuations decoded as one batch; the texts do not depend on it."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """The framework; auto is MLX on Apple silicon, torch elsewhere."""
    stream: bool = True
    """Stream the text, if there is a single continuation."""
    output: Literal["text", "json"] = "text"
    """Print prompt and continuation, or the record of each as a JSON line."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the next token."""
    step: StepConfig = StepConfig()
    """How the backend executes the model; training options have no effect."""
    logging: InferLogging = InferLogging()
    """Logging of the records, one per text."""
    wandb: WandbConfig = WandbConfig()
    """Weights & Biases, for logging.backend wandb."""

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string has no effect: leave it out")
        return stop
