"""What can be chosen about the text that a model writes."""

from typing import Literal

from pydantic import Field, field_validator

from lm_core.config import Config, SamplingConfig, StepConfig
from lm_pipeline.commands.train_config import WandbConfig
from lm_pipeline.program import ProgramConfig
from lm_pipeline.saved_model import Which


class InferLogging(Config):
    """Where the record of each text goes."""

    file: str = ""
    """JSON lines are appended to it; none when empty."""
    backend: tuple[Literal["wandb"], ...] = ()
    """wandb makes the records an artifact of a W&B run."""


class InferConfig(ProgramConfig):
    """Continue prompts with a trained model."""

    checkpoint: str = ""
    """Run folder, or a Hugging Face folder; the newest run under runs/transformerlm when empty."""
    which: Which = "best"
    """Of a run's checkpoints: the one with the best validation loss, or the latest."""
    tokenizer: str = ""
    """Of a Hugging Face folder without one, as path or kind:path; a run folder carries its own."""
    prompt: tuple[str, ...] = ()
    """Texts to continue; "-" is standard input, which is also read when there is no prompt and it is a pipe."""
    prompts_file: str = ""
    """A text file with a prompt on every line."""
    n: int = Field(1, gt=0)
    """Continuations of each prompt."""
    max_new_tokens: int = Field(200, gt=0)
    """Most tokens of a continuation."""
    stop: tuple[str, ...] = ()
    """Strings that end a continuation; they are not part of it."""
    ignore_eos: bool = False
    """Go on past the end-of-text token."""
    seed: int = Field(0, ge=0)
    """Of the first continuation; the next has the next seed."""
    batch_size: int = Field(16, gt=0)
    """Most continuations that are written at once; what they are does not depend on it."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """The framework; auto is MLX on Apple silicon, torch elsewhere."""
    stream: bool = True
    """Print text as it comes, where there is one continuation."""
    output: Literal["text", "json"] = "text"
    """What is printed: prompt and continuation, or the record of each as a JSON line."""
    sampling: SamplingConfig = SamplingConfig()
    """How the next token is chosen."""
    step: StepConfig = StepConfig()
    """How the backend executes the model; what is about training has no effect."""
    logging: InferLogging = InferLogging()
    """Where the record of each text goes."""
    wandb: WandbConfig = WandbConfig()
    """Weights & Biases, for logging.backend wandb."""

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty string ends no text: leave it out")
        return stop
