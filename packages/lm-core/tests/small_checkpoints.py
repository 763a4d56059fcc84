"""Checkpoints of two small arrays, saved and compared with what was saved."""

from pathlib import Path
from typing import Any

import numpy as np

from lm_core.run.checkpoint import Checkpoint, Checkpoints

STATE = {"step": np.array(3, np.int64), "m.w": np.ones((2, 2), np.float32), "grad_ema.all": np.array(0.5, np.float32)}


class Crash(BaseException):
    """The process ends here: nothing in the code under test may catch it."""


def save(checkpoints: Checkpoints, step: int, **metadata: Any) -> Path:
    weights = {"w": np.full((2, 2), step, np.float32), "b": np.arange(3, dtype=np.float32)}
    return checkpoints.save(weights, STATE | {"step": np.array(step)}, {"step": step, "text": "é\n\0", **metadata})


def newest(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    """The step of the newest checkpoint, once its content has been compared with what was saved, and the warnings."""
    warnings: list[str] = []
    found = checkpoints.newest(warnings.append)
    if found:
        assert_whole(found)
    return (found.step if found else None), warnings


def assert_whole(found: Checkpoint) -> None:
    state = STATE | {"step": np.array(found.step)}
    weights = {"w": np.full((2, 2), found.step, np.float32), "b": np.arange(3, dtype=np.float32)}
    for read, written in ((found.weights, weights), (found.optimizer_state, state)):
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in read.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in written.items()
        }
    assert found.metadata["text"] == "é\n\0"


def files(path: Path) -> tuple[Path, Path]:
    return path, path.with_suffix(".safetensors")
