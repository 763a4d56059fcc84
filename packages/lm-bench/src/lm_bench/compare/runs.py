"""Reading of a run folder: its config, flat, and its losses."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.config import read_toml
from lm_core.errors import UserError
from lm_core.report import Record, read_run
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.resume import flat
from lm_pipeline.verify.check import find_runs

Curve = list[tuple[int, float]]
"""Steps and losses, in nats."""


@dataclass(frozen=True)
class ComparedRun:
    """A run."""

    folder: Path
    config: dict[str, Any]
    """Dotted key -> value."""
    training: Curve
    validation: Curve
    bits: dict[str, float]
    """bits_per_byte and the like -> the value of the last evaluation that has it."""
    seconds: float | None
    tokens_per_second: float | None
    """Median over the training records."""

    @property
    def losses(self) -> Curve:
        """Records that it is compared by: the validation losses, or the training losses where there are none."""
        return self.validation or self.training

    @property
    def last(self) -> float:
        """The last loss."""
        return self.losses[-1][1]

    @property
    def best(self) -> float:
        """The lowest loss."""
        return min(loss for _, loss in self.losses)


def read_runs(paths: Sequence[str], warn: Callable[[str], None]) -> list[ComparedRun]:
    """The runs of the folders, each once; one without records is skipped, with a warning.

    Raises:
        UserError: when a path holds no run, a config is not TOML, or no run has records.
    """
    folders = {folder.resolve(): folder for folder in find_runs(paths)}
    found = []
    for folder in folders.values():
        try:
            found.append(_read(folder))
        except _EmptyError as error:
            warn(f"skipped: {error}")
    if not found:
        raise UserError("no run has any losses to compare")
    return found


class _EmptyError(Exception):
    pass


def _read(folder: Path) -> ComparedRun:
    run = RunFolder(folder)
    config = _config(run)
    try:
        history = read_run(run.metrics)
    except UserError as error:
        raise _EmptyError(str(error)) from None
    training, validation = _curve(history.train), _curve(history.evals)
    if not training and not validation:
        raise _EmptyError(f"{run.metrics}: no losses in it")
    records = history.evals or history.train
    bits = {
        key: value
        for record in records
        for key, value in record.items()
        if key.startswith("bits_per_") and _is_number(value)
    }
    speeds = sorted(_numbers(history.train, "tokens_per_second"))
    clock = _numbers([*history.train, *history.evals], "seconds")
    return ComparedRun(
        folder,
        config,
        training,
        validation,
        bits,
        max(clock, default=None),
        speeds[len(speeds) // 2] if speeds else None,
    )


def _config(run: RunFolder) -> dict[str, Any]:
    """The config that the newest checkpoint knows; that of config.toml, which anybody may have edited, without one."""
    known = Checkpoints(run.checkpoints).newest_metadata().get("config")
    if known is None and run.config.exists():
        known = read_toml(run.config)
    return flat(known or {})


def _numbers(records: list[Record], key: str) -> list[float]:
    return [float(record[key]) for record in records if _is_number(record.get(key))]


def _curve(records: list[Record]) -> Curve:
    return [
        (int(record["step"]), float(record["loss_nats"])) for record in records if _is_number(record.get("loss_nats"))
    ]


def _is_number(value: object) -> bool:
    """Not NaN, and no integer that no float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
