"""Summary of a run: command, data, model, machine. Stored in checkpoints, shown in the report."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from lm_core.config import Config, OptimizerConfig
from lm_core.errors import UserError


class About(Config):
    """One process's part in a run, in words; a resumed run has that of the last process which saved."""

    command: str
    """As it was typed."""
    data: str
    """The text or data set, and its size."""
    parameters: int
    """Number of the model's parameters."""
    optimizer: str
    """Its name and its settings."""
    backend: str
    """The framework."""
    device: str
    """The backend's description of device, version and threads."""
    dtype: str
    """Type of activations and matrix products."""
    seed: int
    """Seed of the weights and the batches."""

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> Self | None:
        """Read it from a checkpoint's metadata; None where there is none."""
        try:
            return cls.parse(metadata["about"])
        except (LookupError, TypeError, UserError):
            return None

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        return [
            (name.capitalize(), f"{value:,}" if name == "parameters" else str(value))
            for name, value in self.model_dump().items()
        ]


def command_line(program: str, argv: Sequence[str]) -> str:
    """A command as a shell takes it; `program` may be several words."""
    return " ".join([program, shlex.join(argv)]).strip()


def resume_line(program: str, folder: Path, *flags: str) -> str:
    """The command that resumes the run in a folder, by a `save_dir` flag and others, as a shell takes it."""
    return command_line(program, ["--save_dir", str(folder), *flags])


def optimizer_line(config: OptimizerConfig) -> str:
    """Describe an optimizer, such as "adamw, beta1 0.9, ..."; options that are not set are left out."""
    values = config.model_dump(mode="json", exclude_none=True)
    name = values.pop("name")
    return ", ".join([name, *(f"{key} {_spelled(value)}" for key, value in values.items())])


def _spelled(value: Any) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
