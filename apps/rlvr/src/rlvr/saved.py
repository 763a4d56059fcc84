"""A model that was trained here: its run folder, the tasks that it was trained on, and the flags of who reads it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from lm_core.config import SamplingConfig, StepConfig
from lm_core.errors import UserError
from lm_core.run.about import resume_line
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.terminal import say
from lm_pipeline.program import ProgramConfig
from lm_pipeline.saved_model import SavedModel, Which, load_model
from rlvr.flags import TaskFlags
from rlvr.vocabulary import VOCABULARY


def read_model(path: str, which: Which, key: str) -> SavedModel:
    """Read a run folder of this app; `key` is what messages name.

    Raises:
        UserError: when there is none, it is damaged, or of another vocabulary.
    """
    if not path:
        raise UserError(f"{key}: name the run folder of a model, such as one of `uv run apps/rlvr pretrain`")
    model = load_model(path, which, key=key)
    if model.tokenizer.fingerprint != VOCABULARY.fingerprint:
        raise UserError(f"{key}: {path} has another vocabulary than this app: name a run of `uv run apps/rlvr`")
    return model


def config_of(path: str) -> dict[str, Any]:
    """The config of a run, as its newest checkpoint has it."""
    return dict(Checkpoints(RunFolder(Path(path)).checkpoints).newest_metadata().get("config") or {})


def warn_if_unfinished(path: str, steps: int) -> None:
    """A note where a run of so many steps was stopped before its end."""
    step = Checkpoints(RunFolder(Path(path)).checkpoints).newest_metadata().get("step", steps)
    if step < steps:
        rest = resume_line("uv run apps/rlvr pretrain", Path(path), "--resume")
        say(f"note: {path} was stopped at step {step:,} of {steps:,}; to its end: {rest}")


class ReadFlags(TaskFlags, ProgramConfig):
    """Flags of the commands that read a model."""

    tasks: tuple[str, ...] = ()
    """Tasks; those that the model was trained on when none is named."""
    min_level: int = Field(0, ge=0)
    """Easiest level of the problems; 0: that of the training."""
    max_level: int = Field(0, ge=0)
    """Hardest level; 0: that of the training."""
    which: Which = "latest"
    """Checkpoint of a run: the latest, or the one with the best validation loss."""
    seed: int = Field(0, ge=0)
    """Seed of the problems and of the first completion; each further one uses the next."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """auto: MLX on Apple silicon, torch elsewhere."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the next character; temperature 0 takes the likeliest."""
    step: StepConfig = StepConfig()
    """How the backend executes the model; training options have no effect."""

    def saved_model(self, path: str, key: str = "checkpoint") -> SavedModel:
        """Read a run folder of this app.

        Raises:
            UserError: when there is none, it is damaged, or of another vocabulary.
        """
        return read_model(path, self.which, key)

    def at(self, path: str) -> Self:
        """The flags with the tasks and levels of a run where none were named."""
        known = config_of(path)
        names = ("tasks", "min_level", "max_level")
        return self.model_copy(
            update={name: known[name] for name in names if name in known and not getattr(self, name)}
        )
