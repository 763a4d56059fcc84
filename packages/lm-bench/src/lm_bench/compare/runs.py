"""Reading of a run folder: its config, flat, its losses, and what a comparison draws of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_bench.study.configs import Described, described
from lm_bench.study.curves import Log, RunCurves
from lm_core.errors import UserError
from lm_core.run.folder import RunFolder
from lm_pipeline.verify.check import find_runs


@dataclass(frozen=True)
class ComparedRun:
    """A run."""

    folder: Path
    described: Described
    curves: RunCurves
    step: int
    """Of the last loss."""
    last: float
    """The last loss, in nats: of validation, or of training where there is none."""
    best: float
    """The lowest one."""
    bits: dict[str, float]
    """bits_per_byte and the like -> the value of the last evaluation that has it."""
    seconds: float | None
    tokens_per_second: float | None
    """Median over the training records."""

    @property
    def config(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return self.described.config


def read_runs(paths: Sequence[str], warn: Callable[[str], None]) -> list[ComparedRun]:
    """The runs of the folders, each once; one without losses is skipped, with a warning.

    Raises:
        UserError: when a path holds no run, a config is not TOML, or no run has losses.
    """
    folders = {folder.resolve(): folder for folder in find_runs(paths)}
    found = [run for folder in folders.values() if (run := _read(folder, warn))]
    if not found:
        raise UserError("no run has any losses to compare")
    return found


def _read(folder: Path, warn: Callable[[str], None]) -> ComparedRun | None:
    known, metrics = described(folder), RunFolder(folder).metrics
    try:
        log = Log(metrics)
    except OSError as error:
        warn(f"skipped: {metrics}: {error.strerror or error}")
        return None
    kind = next((kind for kind in ("eval", "train") if len(log.curve(kind, "loss_nats")[0])), "")
    if not kind:
        warn(f"skipped: {metrics}: no losses in it")
        return None
    steps, losses = log.curve(kind, "loss_nats")
    clock = np.concatenate([log.curve(kind, "seconds")[1] for kind in ("train", "eval")])
    speeds = np.sort(log.curve("train", "tokens_per_second")[1])
    return ComparedRun(
        folder,
        known,
        RunCurves.of(log),
        int(steps[-1]),
        float(losses[-1]),
        float(losses.min()),
        {key: float(log.curve(kind, key)[1][-1]) for key in log.keys(kind) if key.startswith("bits_per_")},
        float(clock.max()) if len(clock) else None,
        float(speeds[len(speeds) // 2]) if len(speeds) else None,
    )
