"""The loop, over a trainer of three numbers: what is due when, what stops it, and what is saved."""

import errno
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.errors import NonFiniteError, UserError
from lm_core.run.checkpoint import Checkpoints, DamagedError
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import TIMING_FIELDS, RunLog, read_records
from lm_core.run.loop import LoopConfig, Run, RunState, stops_early, train

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

    def step(self, batch: Batch, lr: float) -> Mapping[str, Any]:
        self.taken += 1
        self.events.append(("step", self.taken))
        gradient = (self.w - batch.inputs.mean() / 97).astype(np.float32)
        self.m = np.float32(0.9) * self.m + gradient
        self.w = self.w - np.float32(lr) * self.m
        if self.taken == self.interrupt_at:
            self.interrupts.requested = True
        values = {"loss_nats": float((gradient**2).mean()), "grad_norm": float(np.linalg.norm(gradient))}
        values |= self.bad.get(self.taken, {})
        return {name: Lazy(value, self.reads, self.taken) for name, value in values.items()}

    def diagnostics(self) -> dict[str, dict[str, float]]:
        return {"beta2": {"all": 0.5}}

    def evaluate(self, batch: Batch) -> float:
        self.events.append(("eval", self.taken))
        if self.val_losses:
            return next(self.val_losses)
        return float(((self.w - batch.inputs.mean() / 97) ** 2).mean())

    def weights(self) -> dict[str, np.ndarray]:
        return {"w": self.w.copy()}

    def optimizer_state(self) -> dict[str, np.ndarray]:
        return {"step": np.array(self.taken), "m": self.m.copy()}

    def load(self, weights: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.w, self.m, self.taken = weights["w"], state["m"], int(state["step"])


class Saves(Checkpoints):
    """Checkpoints that note when they are made and fail when told to."""

    def __init__(self, folder: Path, events: Events):
        super().__init__(folder, keep=99)
        self.events = events
        self.failures: dict[int, Exception] = {}

    def save(self, weights: Mapping[str, Any], optimizer_state: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
        if facts["step"] in self.failures:
            raise self.failures.pop(facts["step"])
        self.events.append(("save", facts["step"]))
        return super().save(weights, optimizer_state, facts)


class Bench:
    """One run in a folder, put together anew for each process that would go on with it."""

    def __init__(self, folder: Path, **config: Any):
        folder.mkdir(exist_ok=True)
        self.folder, self.events = folder, Events()
        self.config = LoopConfig(**{"max_steps": 10, "log_every": 3, **config})
        self.trainer, self.saves = Momentum(self.events), Saves(folder / "checkpoints", self.events)
        self.state = RunState()

    def go(self) -> RunState:
        log = RunLog(self.folder / "metrics.jsonl", self.state.step, self.config.max_steps)
        record = log.record

        def noted(kind: str, step: int, values: Mapping[str, Any]) -> None:
            self.events.append((f"{kind} record", step))
            record(kind, step, values)

        log.record = noted  # type: ignore[method-assign]
        run = Run(
            trainer=self.trainer,  # type: ignore[arg-type]
            batches=RandomWindows(TOKENS, 4, LengthRule(5, 9), seed=3),
            eval_batch=frozen_batch(TOKENS, 8, 9, seed=4),
            learning_rate=lambda step: 0.1 / step,
            config=self.config,
            log=log,
            checkpoints=self.saves,
            facts={"model": {"d_model": 3}},
        )
        try:
            return train(run, self.state, self.trainer.interrupts)
        finally:
            log.close()

    def resume(self) -> None:
        found = self.saves.newest(pytest.fail)
        assert found is not None
        self.trainer.load(found.weights, found.optimizer_state)
        self.state = RunState.from_facts(found.facts)

    def at(self, kind: str) -> list[int]:
        return [step for event, step in self.events if event == kind]

    def records(self) -> list[dict[str, Any]]:
        """The records without what a clock says."""
        found = read_records(self.folder / "metrics.jsonl")
        return [{key: value for key, value in record.items() if key not in TIMING_FIELDS} for record in found]


# What is due


def test_the_first_step_the_due_ones_and_the_last_are_logged_evaluated_and_saved_in_this_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_every=2, eval_every=4, save_every=4, max_steps=5)
    bench.go()
    once = [("train record", 1), ("eval", 1), ("eval record", 1)]
    all_three = [("train record", 4), ("eval", 4), ("eval record", 4), ("save", 4)]
    last = [("eval", 5), ("eval record", 5), ("save", 5)]
    expected = [
        ("step", 1),
        *once,
        ("step", 2),
        ("train record", 2),
        ("step", 3),
        ("step", 4),
        *all_three,
        ("step", 5),
        *last,
    ]
    assert bench.events == expected


def test_an_interval_of_zero_is_never_but_the_ends_are_evaluated_and_the_end_is_saved(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_every=0)
    bench.go()
    assert (bench.at("train record"), bench.at("eval record"), bench.at("save")) == ([1], [1, 10], [10])


def test_a_save_that_is_due_at_the_end_is_made_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=5)
    bench.go()
    assert bench.at("save") == [5, 10]


def test_the_device_is_waited_for_only_where_something_is_due(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_every=4, max_steps=7)
    seen: list[int] = []
    step = bench.trainer.step

    def counting(batch: Batch, lr: float) -> Mapping[str, Any]:
        seen.append(len(bench.trainer.reads))
        return step(batch, lr)

    bench.trainer.step = counting  # type: ignore[method-assign]
    bench.go()
    assert seen[1] == seen[2] == seen[3] > 0, "between step 1 and step 4 nothing is read"
    assert seen[4] == seen[5] == seen[6] > seen[3]
    looks = [bench.trainer.reads.count(("read", step)) for step in (2, 3, 5, 6, 7)]
    assert looks == [2] * 5, "though in the end each figure of every step was looked at once"


def test_a_record_says_what_the_step_did_in_the_units_of_its_names(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    state = bench.go()
    first, evaluation = bench.records()[:2]
    assert list(first) == ["kind", "step", "loss_nats", "bits_per_token", "lr", "grad_norm", "beta2"]
    assert first["bits_per_token"] == first["loss_nats"] / math.log(2)
    assert (first["lr"], first["beta2"]) == (0.1, {"all": 0.5})
    assert evaluation["loss_nats"] == state.first_val_loss


# What stops it


@pytest.mark.parametrize("name", ["loss_nats", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad", [1, 4, 5, 6, 7, 9, 10])
def test_a_step_that_is_not_finite_is_named_and_nothing_is_saved_from_it_on(
    tmp_path: Path, bad: int, name: str, value: float
) -> None:
    bench = Bench(tmp_path, log_every=100, save_every=3)
    bench.trainer.bad = {bad: {name: value}, 10: {"loss_nats": math.nan}}
    with pytest.raises(NonFiniteError, match=f"step {bad}: {name if bad < 10 else '.*'} is "):
        bench.go()
    assert bench.at("save") == [step for step in (3, 6, 9) if step < bad]
    assert all(record["step"] < bad for record in bench.records())


def test_weights_that_are_not_finite_are_never_saved_though_every_loss_was(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=3)
    weights = bench.trainer.weights
    bench.trainer.weights = lambda: weights() if bench.trainer.taken < 6 else {"w": np.array([1, np.inf])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 6: w is not finite"):
        bench.go()
    assert bench.at("save") == [3]


def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_not_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=4, save_every=4)
    bench.trainer.val_losses = iter([1.0, math.nan])
    with pytest.raises(NonFiniteError, match="step 4: validation loss is nan"):
        bench.go()
    assert (bench.at("eval record"), bench.at("save")) == ([1], [])


@pytest.mark.parametrize(
    ("losses", "options", "stops_at"),
    [
        ([5, 4, 4, 4, 0, 0], {"early_stop_patience": 2}, 4),
        ([5, 4, 4, 3, 3, 3, 0], {"early_stop_patience": 2}, 6),
        ([5, 6, 7, 8, 9, 9], {"early_stop_patience": 3}, 4),
        ([5, 4.9, 4.8, 4.7, 0, 0], {"early_stop_patience": 2, "early_stop_min_delta": 0.5}, 3),
        ([5, 4.8, 4.4, 4.4, 4.4, 0], {"early_stop_patience": 2, "early_stop_min_delta": 0.5}, 5),
        ([5, 6, 6, 6, 6, 6], {"early_stop_patience": 2, "early_stop_warmup": 3}, 5),
        ([5, 6, 6, 6, 6, 6], {"early_stop_patience": 0}, 6),
        ([5, 4, 3, 2, 1, 0], {"early_stop_patience": 1}, 6),
    ],
)
def test_it_stops_after_so_many_evaluations_without_a_gain(
    tmp_path: Path, losses: list[float], options: dict[str, Any], stops_at: int
) -> None:
    bench = Bench(tmp_path, eval_every=1, max_steps=len(losses), **options)
    bench.trainer.val_losses = iter(losses)
    state = bench.go()
    assert state.step == stops_at
    assert stops_early(bench.config, state) == (stops_at < len(losses))
    assert bench.at("save") == [stops_at]
    assert (state.first_val_loss, state.last_val_loss) == (losses[0], losses[stops_at - 1])


def test_the_best_loss_is_the_smallest_seen_however_small_the_gain(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, max_steps=3, early_stop_min_delta=0.5)
    bench.trainer.val_losses = iter([5.0, 4.9, 4.8])
    state = bench.go()
    assert (state.best_val_loss, state.best_step) == (4.8, 3)


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, early_stop_patience=1)
    bench.trainer.val_losses = iter([1.0, 2.0])
    bench.go()
    again = Bench(tmp_path, eval_every=1, early_stop_patience=1)
    again.resume()
    assert again.go().step == 2
    assert again.events == []


def test_a_run_that_stopped_early_goes_on_when_it_is_given_more_patience(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, early_stop_patience=1, max_steps=4)
    bench.trainer.val_losses = iter([1.0, 2.0])
    bench.go()
    again = Bench(tmp_path, eval_every=1, early_stop_patience=9, max_steps=4)
    again.resume()
    again.trainer.val_losses = iter([2.0, 2.0])
    assert again.go().step == 4


@pytest.mark.parametrize("step", [1, 4, 5, 10])
def test_an_interrupt_ends_the_run_after_the_step_in_hand_and_saves(tmp_path: Path, step: int) -> None:
    bench = Bench(tmp_path, save_every=5)
    bench.trainer.interrupt_at = step
    assert bench.go().step == step
    assert bench.at("step")[-1] == bench.at("save")[-1] == step
    assert len(set(bench.at("save"))) == len(bench.at("save"))


# What goes wrong with the disk


@pytest.mark.parametrize("failure", [FULL, DamagedError("what was read back is not what was written")])
def test_a_save_that_fails_is_reported_and_training_goes_on(
    tmp_path: Path, failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, save_every=3)
    bench.saves.failures = {6: failure}
    assert bench.go().step == 10
    assert bench.at("save") == [3, 9, 10]
    said = [line for line in capsys.readouterr().err.splitlines() if "not saved" in line]
    assert len(said) == 1
    assert said[0].startswith("step 6: not saved (")


def test_a_last_save_that_failed_when_due_is_tried_again_and_its_failure_is_not_hidden(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "twice", save_every=5)
    bench.saves.failures = {10: FULL}
    bench.go()
    assert bench.at("save") == [5, 10]
    bench = Bench(tmp_path / "always")
    bench.saves.failures = {10: FULL}
    with pytest.raises(
        UserError, match=r"step 10 could not be saved: .*No space left.*; nothing had been saved before"
    ):
        bench.go()


# Resuming


@pytest.mark.parametrize("cut", [1, 3, 4, 7, 9])
def test_a_run_in_two_parts_has_the_records_and_the_weights_of_one_in_one(tmp_path: Path, cut: int) -> None:
    options = {"eval_every": 4, "log_every": 2, "early_stop_patience": 5}
    whole = Bench(tmp_path / "whole", **options)
    expected = whole.go()
    first = Bench(tmp_path / "parts", **options)
    first.trainer.interrupt_at = cut
    first.go()
    second = Bench(tmp_path / "parts", **options)
    second.resume()
    state = second.go()
    assert second.records() == whole.records()
    assert second.at("step") == list(range(cut + 1, 11))
    assert second.trainer.w.tobytes() == whole.trainer.w.tobytes()
    assert {**asdict(state), "seconds": 0} == {**asdict(expected), "seconds": 0}
    assert state.seconds > first.state.seconds


def test_a_run_killed_after_a_save_loses_only_what_came_after_it(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "whole", save_every=4, log_every=1)
    whole.go()
    killed = Bench(tmp_path / "killed", save_every=4, log_every=1)
    killed.trainer.bad = {7: {"loss_nats": math.nan}}
    with pytest.raises(NonFiniteError):
        killed.go()
    again = Bench(tmp_path / "killed", save_every=4, log_every=1)
    again.resume()
    assert again.state.step == 4
    again.go()
    assert again.records() == whole.records()


def test_a_finished_run_that_is_resumed_does_nothing(tmp_path: Path) -> None:
    Bench(tmp_path).go()
    again = Bench(tmp_path)
    again.resume()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again.go()
    assert again.events == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
