"""Config of a training run."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lm_core.config import (
    AdamWConfig,
    Config,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    StepConfig,
    Text,
)
from lm_core.data.stream import BLOCK
from lm_core.schedules import Extension
from lm_pipeline.program import ProgramConfig
from lm_pipeline.text.inputs import Chosen
from lm_pipeline.tokens.config import SpecialTokens

LogBackend = Literal["console", "wandb", "tensorboard"]


class DataConfig(Config):
    """The token files, and the order in which they are read."""

    train: str = ""
    """Training token file, from transformerlm-make-data; or nanoGPT's .bin, or a .npy without a sidecar; or the folder
    of a stream of shards, which may still be written."""
    validation: str = ""
    """Validation token file, or the folder of a stream that has a validation part."""
    tokenizer: str = ""
    """Tokenizer that made them, as path or kind:path; when empty, that of init_from."""
    order: Literal["shuffled", "random"] = "shuffled"
    """shuffled: every window once per epoch; random: windows that start anywhere."""
    shuffle_block: int = Field(BLOCK, gt=0)
    """Windows of a stream that are shuffled together; a step waits for all of its block."""
    skip_bad_shards: bool = False
    """Skip shards that are missing, cut or corrupt, each with a warning; else they end the run."""
    segments: bool = False
    """Attend within documents alone, and count positions from the start of each; ends of text divide them."""
    eval_tokens: int = Field(0, ge=0)
    """Validation tokens per evaluation; 0: all."""
    pad_vocab_to: int = Field(1, gt=0)
    """The model's vocabulary is rounded up to a multiple of this; the ids added are never sampled."""


class SourceConfig(Config):
    """Text that is encoded while the model is trained on it; without it, data names what is encoded already."""

    train: tuple[str, ...] = ()
    """Files, folders, globs and hub:NAME:CONFIG:SPLIT, as transformerlm-make-data takes them."""
    validation: tuple[str, ...] = ()
    """Validation inputs, likewise; alternatively validation_fraction holds out a part of train."""
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the documents held out, chosen by their text: the same in any order."""
    output: str = ""
    """Folder of the token shards, which a later run finds there."""
    format: Chosen = "auto"
    """Format of the inputs, by name and first bytes where it is auto."""
    text_field: str = "text"
    """Field or column of the document."""
    separator: Text = ""
    """Separator of documents in a text file; without it, a file is one document."""
    special_tokens: SpecialTokens = "text"
    """How to treat a special token in the text: as an error, as ordinary text, or as its id."""
    shard_bytes: int = Field(1 << 24, gt=0)
    """Bytes of text of a shard: training starts when the first one is there."""
    vocab_size: int = Field(8192, gt=256)
    """Vocabulary of the tokenizer that is learned from train where data.tokenizer names none."""

    def with_absolute_paths(self) -> Self:
        """The same text, by names that hold in any folder."""
        inputs = {key: tuple(map(absolute, getattr(self, key))) for key in ("train", "validation")}
        return self.model_copy(update={**inputs, "output": absolute(self.output)})


def absolute(path: str) -> str:
    """A path that is there as an absolute one; others, patterns and names as they are."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


class ShapeConfig(ModelConfig):
    """The model."""

    vocab_size: int = Field(0, ge=0)
    """V: number of token ids; 0: those of the tokenizer, see data.pad_vocab_to."""
    seq_len: int = Field(256, gt=0)
    """Context length of the model, in tokens; training windows are that long."""


class RateConfig(ScheduleConfig):
    """The learning rate over the run."""

    max_steps: int = Field(0, ge=0)
    """T: the step at which the decay ends; 0: training.max_steps."""
    on_resume: Extension | None = None
    """With --resume and another training.max_steps: stretch the decay to the new end, stay on its floor, or start again
    with a warm-up. It applies to this call, and changes the keys above; when not given, they stay as they are."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self  # judged when max_steps is known


class TrainingConfig(LoopConfig):
    """Length of the run, evaluations and checkpoints."""

    max_steps: int = Field(1000, gt=0)
    """Optimizer steps in total."""
    max_tokens: int = Field(0, ge=0)
    """Tokens to train on, in whole steps, in place of max_steps; 0: none."""
    batch_size: int = Field(32, gt=0)
    """Windows per step, each of model.seq_len tokens."""
    eval_every: int = Field(100, ge=0)
    """Steps between evaluations, 0: none. The first and the last step are evaluated too."""
    save_every: int = Field(100, ge=0)
    """Steps between checkpoints; 0: none. The last step is always saved."""
    save_best: bool = True
    """Also save when the validation loss is the lowest so far; that checkpoint is kept until there is a better one."""
    keep: int = Field(2, gt=0)
    """Number of latest checkpoints to keep, besides the best one."""
    sample_tokens: int = Field(200, ge=0)
    """Length of the sample written at the end of the run, in tokens."""
    sample_prompt: str = ""
    """Prompt of that sample; when empty, the end-of-text token, or the first validation token."""


class LoggingConfig(Config):
    """Destinations of records besides metrics.jsonl, and the name of the run."""

    backend: tuple[LogBackend, ...] = ("console",)
    """Any of console, wandb, tensorboard."""
    run_name: str = ""
    """Name of the run, and of its folder where save_dir is empty; the time when empty."""
    architecture: str = ""
    """Label for the model, stored with the run."""
    dataset: str = ""
    """Label for the data, stored with the run."""


class WandbConfig(Config):
    """Weights & Biases, for logging.backend wandb."""

    entity: str = ""
    """User or team; the account's own when empty."""
    project: str = "transformerlm"
    """Project of the runs."""


class TrainConfig(ProgramConfig):
    """Train a Transformer language model on token files."""

    resume: bool = False
    """Resume the run in save_dir, or the newest run that has a checkpoint, from its newest checkpoint."""
    save_dir: str = ""
    """Run folder; runs/transformerlm/<run_name> when empty."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the batches, the dropout masks and the sample. --seeds 1 2 3 --save_dir S runs
    several, each in a folder of its own; with --together as one model, which fills a GPU (torch)."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """The framework; auto is MLX on Apple silicon, torch elsewhere."""
    init_from: str = ""
    """Run folder or Hugging Face folder to take initial weights and shape from; from scratch when empty."""
    source: SourceConfig = SourceConfig()
    """Text that is encoded while the model is trained on it."""
    data: DataConfig = DataConfig()
    """The data."""
    model: ShapeConfig = ShapeConfig()
    """The model."""
    optimizer: Annotated[OptimizerConfig, Field(discriminator="name")] = AdamWConfig()
    """The optimizer, by its name."""
    schedule: RateConfig = RateConfig()
    """The learning rate."""
    step: StepConfig = StepConfig()
    """How the backend executes a step."""
    training: TrainingConfig = TrainingConfig()
    """Length of the run, evaluations and checkpoints."""
    logging: LoggingConfig = LoggingConfig()
    """Logging."""
    wandb: WandbConfig = WandbConfig()
    """Weights & Biases."""
