"""What can be chosen about a training run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lm_core.config import AdamWConfig, Config, LoopConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StepConfig
from lm_core.schedules import Extension
from lm_pipeline.program import ProgramConfig

LogBackend = Literal["console", "wandb", "tensorboard"]


class DataConfig(Config):
    """What is read, and in what order."""

    train: str = ""
    """Token file to learn from, of transformerlm-make-data; or nanoGPT's .bin, or a .npy without a sidecar."""
    validation: str = ""
    """Token file to measure on."""
    tokenizer: str = ""
    """The tokenizer that made them, as path or kind:path; when empty, that of init_from."""
    order: Literal["shuffled", "random"] = "shuffled"
    """Every window once before any comes again, or windows that begin anywhere."""
    eval_tokens: int = Field(0, ge=0)
    """Tokens of validation that an evaluation reads; 0: all."""
    pad_vocab_to: int = Field(1, gt=0)
    """The model's vocabulary is rounded up to a multiple of this; the ids added are never drawn."""


class ShapeConfig(ModelConfig):
    """The model."""

    vocab_size: int = Field(0, ge=0)
    """V: number of token ids; 0: those of the tokenizer, see data.pad_vocab_to."""
    seq_len: int = Field(256, gt=0)
    """Longest sequence the model sees at once, in tokens; training windows are that long."""


class RateConfig(ScheduleConfig):
    """The learning rate over the run."""

    max_steps: int = Field(0, ge=0)
    """T: the step at which the decay ends; 0: training.max_steps."""
    on_resume: Extension | None = None
    """With --resume and another training.max_steps: stretch the decay to the new end, stay on its floor, or begin with
    a warm-up again. It is of one call, and the keys above keep what it came to; when not given, they decide."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self  # judged when max_steps is known


class TrainingConfig(LoopConfig):
    """The course of the run."""

    max_steps: int = Field(1000, gt=0)
    """Length of the run."""
    batch_size: int = Field(32, gt=0)
    """Windows in a step."""
    eval_every: int = Field(100, ge=0)
    """Steps between evaluations, 0: none. The first and the last step are evaluated too."""
    save_every: int = Field(100, ge=0)
    """Steps between checkpoints; 0: none. The end is saved too."""
    save_best: bool = True
    """Save also where the validation loss is the lowest so far; that checkpoint stays until there is a better one."""
    keep: int = Field(2, gt=0)
    """Latest checkpoints that stay on disk, beside the best one."""
    sample_tokens: int = Field(200, ge=0)
    """Length of the text that is written at the end of the run."""
    sample_prompt: str = ""
    """What that text continues; when empty, the end-of-text token, or the first token of validation."""


class LoggingConfig(Config):
    """Where records go beside metrics.jsonl, and what the run is called."""

    backend: tuple[LogBackend, ...] = ("console",)
    """Any of console, wandb, tensorboard."""
    run_name: str = ""
    """Of the run, and of its folder where save_dir is empty; the time when empty."""
    architecture: str = ""
    """A word for the model, kept with the run."""
    dataset: str = ""
    """A word for the data, kept with the run."""


class WandbConfig(Config):
    """Weights & Biases, for logging.backend wandb."""

    entity: str = ""
    """User or team; the account's own when empty."""
    project: str = "transformerlm"
    """The project that runs are collected in."""


class TrainConfig(ProgramConfig):
    """Train a Transformer language model on token files."""

    resume: bool = False
    """Go on with the run in save_dir, or with the newest that has a checkpoint, from its newest checkpoint."""
    save_dir: str = ""
    """Run folder; runs/transformerlm/<run_name> when empty."""
    seed: int = Field(0, ge=0)
    """Of the initial weights, the batches, the dropout masks and the sample. --seeds 1 2 3 --save_dir S runs several,
    each in a folder of its own."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """The framework; auto is MLX on Apple silicon, torch elsewhere."""
    init_from: str = ""
    """Run folder or Hugging Face folder whose weights and shape the model begins with; from scratch when empty."""
    data: DataConfig = DataConfig()
    """What is read."""
    model: ShapeConfig = ShapeConfig()
    """The model."""
    optimizer: Annotated[OptimizerConfig, Field(discriminator="name")] = AdamWConfig()
    """The optimizer, by its name."""
    schedule: RateConfig = RateConfig()
    """The learning rate."""
    step: StepConfig = StepConfig()
    """How the backend executes a step."""
    training: TrainingConfig = TrainingConfig()
    """The course of the run."""
    logging: LoggingConfig = LoggingConfig()
    """What is logged where."""
    wandb: WandbConfig = WandbConfig()
    """Weights & Biases."""
