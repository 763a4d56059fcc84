"""A run of the loop over a trainer of three numbers, which notes what happens in which order."""

import errno
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.config import LoopConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import TIMING_FIELDS, RunLog, read_records
from lm_core.run.loop import Run, train
from lm_core.run.state import RunState

TOKENS = np.arange(400) % 97
FULL = OSError(errno.ENOSPC, "No space left on device")
Events = list[tuple[str, int]]


class Lazy:
    """A figure that stays on the device until somebody reads it."""

    def __init__(self, value: float, read: Events, step: int):
        self.value, self.read, self.at = value, read, step

    def __float__(self) -> float:
        self.read.append(("read", self.at))
        return self.value


class Momentum:
    """Gradient descent with momentum on three numbers; the loss is their distance from the batch's mean."""

    def __init__(self, events: Events):
        self.events, self.reads = events, Events()
        self.w, self.m, self.taken = np.zeros(3, np.float32), np.zeros(3, np.float32), 0
        self.bad: dict[int, dict[str, float]] = {}
        self.val_losses: Iterator[float] | None = None
        self.interrupts = Interrupts()
        self.interrupt_at = 0
        self.before_step: Callable[[int], None] = lambda step: None

    def step(self, batch: Batch, lr: float) -> Mapping[str, Any]:
        self.taken += 1
        self.before_step(self.taken)
        self.events.append(("step", self.taken))
        gradient = (self.w - batch.inputs.mean() / 97).astype(np.float32)
        self.m = np.float32(0.9) * self.m + gradient
        self.w = self.w - np.float32(lr) * self.m
        if self.taken == self.interrupt_at:
            self.interrupts.requested = True
        values = {"loss_nats": float((gradient**2).mean()), "grad_norm": float(np.linalg.norm(gradient))}
        values |= self.bad.get(self.taken, {})
        norms = np.array([values["grad_norm"]])
        return {name: Lazy(value, self.reads, self.taken) for name, value in values.items()} | {"grad_norms": norms}

    def diagnostics(self) -> dict[str, dict[str, float]]:
        return {"beta2": {"all": 0.5}}

    def evaluate(self, batch: Batch) -> float:
        self.events.append(("eval", self.taken))
        if self.val_losses:
            return next(self.val_losses)
        return float(((self.w - batch.inputs.mean() / 97) ** 2).mean())

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        return {"blocks.0": float(batch.inputs.mean())}

    def weights(self) -> dict[str, np.ndarray]:
        return {"w": self.w.copy()}

    def optimizer_state(self) -> dict[str, np.ndarray]:
        return {"step": np.array(self.taken), "m": self.m.copy()}

    def snapshot(self) -> Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]:
        both = self.weights(), self.optimizer_state()
        return lambda: both

    def load(self, weights: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.w, self.m, self.taken = weights["w"], state["m"], int(state["step"])


class Crash(BaseException):
    """The process ends here: nothing in the code under test may catch it for good."""


class Saves(Checkpoints):
    """Checkpoints that note when they are made, and wait or fail when told to."""

    def __init__(self, folder: Path, events: Events):
        super().__init__(folder, keep=99)
        self.events = events
        self.failures: dict[int, BaseException] = {}
        self.full_from: float = math.inf
        self.gates: dict[int, threading.Event] = {}

    def save(self, *args: Any, **kwargs: Any) -> Path:
        step = args[2]["step"]
        if step in self.gates:
            assert self.gates[step].wait(10), "nobody trained on while this was saved"
        if step >= self.full_from:
            raise FULL
        if step in self.failures:
            raise self.failures.pop(step)
        path = super().save(*args, **kwargs)
        self.events.append(("save", step))
        return path

    def steps(self) -> list[int]:
        return sorted(self.read(path).step for path in self.folder.glob("*.metadata"))


class Bench:
    """A run in a folder, put together again for each process that resumes it."""

    def __init__(self, folder: Path, **config: Any):
        folder.mkdir(exist_ok=True)
        self.folder, self.events = folder, Events()
        self.config = LoopConfig(**{"max_steps": 10, "log_every": 3, **config})
        self.trainer, self.saves = Momentum(self.events), Saves(folder / "checkpoints", self.events)
        self.state = RunState()
        self.extras: dict[str, Any] = {}

    def go(self) -> RunState:
        log = RunLog(self.folder / "metrics.jsonl", self.state.step, self.config.max_steps)
        record = log.record

        def noted(kind: str, step: int, values: Mapping[str, Any]) -> None:
            self.events.append((f"{kind} record", step))
            record(kind, step, values)

        log.record = noted  # type: ignore[method-assign]
        run = Run(
            trainer=self.trainer,  # type: ignore[arg-type]
            learning_rate=lambda step: 0.1 / step,
            config=self.config,
            log=log,
            checkpoints=self.saves,
            metadata={"model": {"d_model": 3}},
            **{
                "batches": RandomWindows(TOKENS, 4, LengthRule(5, 9), seed=3),
                "evaluation": [frozen_batch(TOKENS, 8, 9, seed=4)],
                **self.extras,
            },
        )
        self.run = run
        try:
            return train(run, self.state, self.trainer.interrupts)
        finally:
            names = [thread.name for thread in threading.enumerate()]
            assert not [name for name in names if name.startswith("save of ")], "a thread is left behind"
            log.close()

    def resume(self) -> None:
        found = self.saves.newest(pytest.fail)
        assert found is not None
        self.trainer.load(found.weights, found.optimizer_state)
        self.state = RunState.from_metadata(found.metadata)

    def at(self, kind: str) -> list[int]:
        return [step for event, step in self.events if event == kind]

    def records(self) -> list[dict[str, Any]]:
        """The records without what a clock says."""
        found = read_records(self.folder / "metrics.jsonl")
        return [{key: value for key, value in record.items() if key not in TIMING_FIELDS} for record in found]
