"""Keys that all commands have, and one TOML file for all of them: keys of all at its top, a table for each command."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field

from lm_core.config import Config, ScheduleConfig
from lm_core.run.app import RunFlags
from rlvr.tasks.registry import Mixture, mixture

TABLES = ("pretrain", "train", "evaluate", "play")


class TaskFlags(Config):
    """Choice of tasks."""

    table: ClassVar[str]
    """The command's own table of a config file."""

    tasks: tuple[str, ...] = ("chain",)
    """Tasks, which take turns: copy, reverse, sort, add, addsteps, chain, chainsteps, countdown, brackets, or one of
    your own as FILE.py:CLASS."""
    min_level: int = Field(1, gt=0)
    """Easiest level of the problems."""
    max_level: int = Field(3, gt=0)
    """Hardest level; all from min_level on are equally frequent."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Validate the keys of all commands, with those of the command's own table over them."""
        shared = {key: value for key, value in values.items() if key not in TABLES}
        own = values.get(cls.table, {})
        return super().parse({**shared, **(own if isinstance(own, Mapping) else {cls.table: own})}, where)

    def problems(self, seq_len: int) -> Mixture:
        """The tasks, tried; arguments and errors as `mixture`."""
        return mixture(self.tasks, self.min_level, self.max_level, seq_len)


class TrainingFlags(TaskFlags, RunFlags):
    """Flags of both commands that train."""

    steps: int = Field(3000, gt=0)
    """Optimizer steps."""
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate; a warm-up of 5% of the steps, then a cosine to a tenth."""


def schedule_of(flags: TrainingFlags) -> ScheduleConfig:
    """The learning rate over the run."""
    warmup = flags.steps // 20
    return ScheduleConfig(kind="cosine", peak_lr=flags.lr, warmup_steps=warmup, max_steps=flags.steps, min_factor=0.1)
