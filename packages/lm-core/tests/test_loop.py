"""The loop, over a trainer of three numbers: what is due when, what stops it, what is said and what is saved."""

import errno
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.config import LoopConfig, ModelConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.errors import NonFiniteError, UserError
from lm_core.model.parameters import parameter_table
from lm_core.run.checkpoint import Checkpoints, DamagedError
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import TIMING_FIELDS, RecordFile, RunLog, read_records
from lm_core.run.loop import Run, train
from lm_core.run.norms import weight_norms
from lm_core.run.state import RunState, stops_early
from lm_core.run.writer import Writer

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
    """One run in a folder, put together anew for each process that would go on with it."""

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
            batches=RandomWindows(TOKENS, 4, LengthRule(5, 9), seed=3),
            learning_rate=lambda step: 0.1 / step,
            config=self.config,
            log=log,
            checkpoints=self.saves,
            metadata={"model": {"d_model": 3}},
            **{"evaluation": [frozen_batch(TOKENS, 8, 9, seed=4)], **self.extras},
        )
        self.run, threads = run, threading.active_count()
        try:
            return train(run, self.state, self.trainer.interrupts)
        finally:
            assert threading.active_count() == threads, "a thread is left behind"
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
    assert [event for event in bench.events if event[0] != "save"] == [e for e in expected if e[0] != "save"]
    assert bench.at("save") == [4, 5]
    assert bench.events.index(("save", 4)) > bench.events.index(("eval record", 4))
    assert bench.events[-1] == ("save", 5), "the last save is waited for"


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


def test_the_validation_loss_is_the_mean_over_the_tokens_of_all_batches(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=1)
    bench.extras = {"evaluation": [frozen_batch(TOKENS, rows, 4, seed=1) for rows in (1, 2, 5)]}
    bench.trainer.val_losses = iter([8.0, 4.0, 1.0])
    assert bench.go().last_val_loss == pytest.approx((8 * 4 + 4 * 8 + 1 * 20) / 32)


def test_with_the_bytes_of_a_batch_records_hold_bits_per_byte_and_if_asked_perplexity(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=1)
    batches = [frozen_batch(TOKENS, rows, 4, seed=1) for rows in (1, 3)]
    bench.extras = {"evaluation": batches, "bytes_of": lambda batch: int(batch.targets.sum()), "perplexity": True}
    bench.trainer.val_losses = iter([1.0, 2.0])
    bench.go()
    trained, evaluated = bench.records()
    first = RandomWindows(TOKENS, 4, LengthRule(5, 9), seed=3).batch(1)
    nats = trained["loss_nats"] * first.tokens
    assert trained["bits_per_byte"] == pytest.approx(nats / math.log(2) / first.targets.sum())
    text_bytes = sum(int(batch.targets.sum()) for batch in batches)
    assert evaluated["bits_per_byte"] == pytest.approx((1 * 4 + 2 * 12) / math.log(2) / text_bytes)
    assert evaluated["perplexity"] == pytest.approx(math.exp(1.75))
    assert "perplexity" not in trained


def test_utilization_is_said_where_the_device_is_known(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=1)
    bench.extras = {"flops_per_token": 6e3, "peak_flops": 1e9}
    bench.go()
    [record] = [r for r in read_records(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert record["mfu"] == pytest.approx(record["tokens_per_second"] * 6e3 / 1e9)


def test_norms_are_logged_if_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_norms=True)
    bench.go()
    records = [record for record in bench.records() if record["kind"] == "train"]
    assert [list(record["weight_norm"]) for record in records] == [["head"]] * 4
    assert len({record["weight_norm"]["head"] for record in records}) == 4
    assert len({record["activation_rms"]["blocks.0"] for record in records}) == 1, "they are those of one batch"


def test_weights_belong_to_the_embedding_their_block_or_the_head() -> None:
    table = parameter_table(ModelConfig(vocab_size=5, seq_len=3, d_model=4, n_layers=2, n_heads=1))
    norms = weight_norms({name: np.full(p.shape, 2, np.float32) for name, p in table.items()})
    assert list(norms) == ["embed", "blocks.0", "blocks.1", "head"]
    assert norms["embed"] == pytest.approx(2 * math.sqrt(5 * 4 + 3 * 4))
    assert norms["head"] == pytest.approx(2 * math.sqrt(4 + 4 + 5 * 4))


def test_norms_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_norms=True)
    bench.trainer.weights = lambda: {"blocks.3.x": np.array([np.nan])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"step 1: weight_norm of blocks\.3 is nan"):
        bench.go()


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
    with pytest.raises(NonFiniteError, match="step 6: w is not finite; the checkpoint of step 3 is kept"):
        bench.go()
    assert bench.at("save") == [3]


def test_optimizer_state_that_is_not_finite_is_never_saved_either(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.optimizer_state = lambda: {"m": np.array([np.inf])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 10: m is not finite; no checkpoint was saved"):
        bench.go()


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
    bench.saves.full_from, bench.extras = 10, {"retry_seconds": [0]}
    with pytest.raises(UserError, match=r"step 10 could not be saved: .*No space left.*; no checkpoint was saved"):
        bench.go()


def test_a_save_that_failed_is_tried_again_after_longer_and_longer_pauses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, save_every=10, max_steps=40, eval_every=0)
    bench.saves.full_from, bench.extras = 10, {"retry_seconds": [2, 5]}
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    collect = Writer.collect
    monkeypatch.setattr(Writer, "collect", lambda writer, wait: collect(writer, wait=True))

    def second(step: int) -> None:
        nonlocal clock
        clock += 1
        if step == 25:
            bench.saves.full_from = math.inf

    bench.trainer.before_step = second
    bench.go()
    tried = [int(line.split()[1][:-1]) for line in capsys.readouterr().err.splitlines() if "not saved" in line]
    assert tried == [10, 12, 17, 20], "2 s after the first failure, 5 s after the others, and when a save is due anyway"
    assert bench.at("save") == [25, 30, 40]


def test_a_run_knows_which_checkpoint_each_one_follows(tmp_path: Path) -> None:
    first = Bench(tmp_path, save_every=3, max_steps=5)
    first.go()
    then = Bench(tmp_path, save_every=3)
    then.resume()
    found = then.saves.newest(pytest.fail)
    assert found is not None
    then.extras = {"parent": found.path.stem}
    then.go()
    by_step = {c.step: c for c in map(then.saves.read, then.saves.folder.glob("*.metadata"))}
    assert sorted(by_step) == [3, 5, 6, 9, 10]
    assert by_step[3].metadata["parent"] is None
    for before, after in itertools.pairwise(sorted(by_step)):
        assert by_step[after].metadata["parent"] == by_step[before].path.stem


def test_something_is_shown_wherever_a_checkpoint_is_due_and_at_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=3)
    shown: list[tuple[int, int]] = []
    bench.extras = {"after_save": lambda state: shown.append((state.step, bench.trainer.taken))}
    bench.go()
    assert shown == [(3, 3), (6, 6), (9, 9), (10, 10)]


def test_records_that_a_full_disk_refuses_wait_for_it_and_no_checkpoint_is_ahead_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "full", log_every=1, save_every=2)
    bench.extras = {"retry_seconds": [0]}
    write = RecordFile._write

    def full(file: RecordFile) -> None:
        if 3 <= bench.trainer.taken < 6:
            raise FULL
        write(file)

    monkeypatch.setattr(RecordFile, "_write", full)
    bench.go()
    said = capsys.readouterr().err
    assert said.count("not logged in metrics.jsonl (No space left on device)") == 1
    assert "step 4: not saved (No space left on device)" in said
    assert 4 not in bench.at("save")
    monkeypatch.undo()
    whole = Bench(tmp_path / "whole", log_every=1, save_every=2)
    whole.go()
    assert bench.records() == whole.records()


# Saving while training goes on


def test_steps_are_taken_while_a_save_is_written_and_the_next_save_waits_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=3)
    gate = bench.saves.gates[3] = threading.Event()
    bench.trainer.before_step = lambda step: gate.set() if step == 6 else None
    bench.go()
    assert bench.events.index(("step", 5)) < bench.events.index(("save", 3)) < bench.events.index(("save", 6))
    assert bench.at("save") == [3, 6, 9, 10]


def test_what_is_saved_is_what_was_there_at_its_step(tmp_path: Path) -> None:
    short = Bench(tmp_path / "short", max_steps=3)
    short.go()
    long = Bench(tmp_path / "long", save_every=3)
    gate = long.saves.gates[3] = threading.Event()
    long.trainer.before_step = lambda step: gate.set() if step == 5 else None
    long.go()
    [saved] = [found for path in long.saves.folder.glob("*.metadata") if (found := long.saves.read(path)).step == 3]
    assert saved.weights["w"].tobytes() == short.trainer.w.tobytes()
    assert saved.optimizer_state["m"].tobytes() == short.trainer.m.tobytes()
    assert saved.metadata["state"]["step"] == 3


@pytest.mark.parametrize(
    ("failure", "kept"), [(None, "the checkpoint of step 3 is kept"), (FULL, "no checkpoint was saved")]
)
def test_an_error_waits_for_the_save_in_hand_and_says_what_is_kept(
    tmp_path: Path, failure: OSError | None, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, save_every=3, log_every=1)
    gate = bench.saves.gates[3] = threading.Event()
    later = threading.Timer(0.2, gate.set)
    bench.trainer.before_step = lambda step: later.start() if step == 4 else None
    bench.trainer.bad = {4: {"loss_nats": math.nan}}
    bench.saves.failures = {3: failure} if failure else {}
    with pytest.raises(NonFiniteError, match=f"step 4: loss_nats is nan; {kept}"):
        bench.go()
    assert ("step 3: not saved" in capsys.readouterr().err) == bool(failure)


def test_an_interrupt_waits_for_the_save_in_hand(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=3)
    gate = bench.saves.gates[3] = threading.Event()
    bench.trainer.before_step = lambda step: gate.set() if step == 4 else None
    bench.trainer.interrupt_at = 4
    bench.go()
    assert bench.at("save") == [3, 4]


@pytest.mark.parametrize("at", [3, 10])
@pytest.mark.parametrize("error", [ValueError("out of range"), Crash()])
def test_an_error_that_is_not_the_disks_is_raised_in_the_loop(tmp_path: Path, error: BaseException, at: int) -> None:
    bench = Bench(tmp_path, save_every=3)
    bench.saves.failures = {at: error}
    with pytest.raises(type(error)):
        bench.go()


def test_the_loops_own_error_comes_before_that_of_the_save_in_hand(tmp_path: Path) -> None:
    bench = Bench(tmp_path, save_every=3)
    bench.saves.failures = {3: ValueError("the save's")}
    bench.saves.gates[3] = threading.Event()

    def fail(step: int) -> None:
        if step == 4:
            bench.saves.gates[3].set()
            raise RuntimeError("the loop's")

    bench.trainer.before_step = fail
    with pytest.raises(RuntimeError, match="the loop's"):
        bench.go()


def test_wherever_a_background_save_crashes_the_run_goes_on_from_a_whole_checkpoint_as_if_never_killed(
    tmp_path: Path,
) -> None:
    options = {"max_steps": 4, "save_every": 2, "eval_every": 1, "log_every": 1, "save_best": True}
    whole = Bench(tmp_path / "whole", **options)
    whole.saves.keep = 1
    whole.go()
    for fail_at in itertools.count(1):
        killed = Bench(tmp_path / str(fail_at), **options)
        killed.saves.keep = 1
        with pytest.MonkeyPatch.context() as patch:
            calls = itertools.count(1)
            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
                patch.setattr(owner, name, crashing(getattr(owner, name), calls, fail_at))
            try:
                killed.go()
            except Crash:
                pass
            else:
                break
        again = Bench(tmp_path / str(fail_at), **options)
        again.saves.keep = 1
        if list(again.saves.folder.glob("*.metadata")):
            again.resume()
        again.go()
        assert again.records() == whole.records()
        assert again.trainer.w.tobytes() == whole.trainer.w.tobytes()
        assert set(again.saves.steps()) >= set(whole.saves.steps()), "at most, something older was not yet removed"
    assert fail_at > 20


def crashing(original: Callable[..., Any], calls: Iterator[int], fail_at: int) -> Callable[..., Any]:
    """The function, but for the call with which the thread that saves comes to its end."""

    def called(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and next(calls) == fail_at:
            raise Crash
        return original(*args, **kwargs)

    return called


# The best


def test_a_new_best_loss_is_saved_where_it_is_measured_and_only_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=1, save_every=3, save_best=True, max_steps=7)
    bench.saves.keep = 1
    bench.trainer.val_losses = iter([5.0, 6.0, 4.0, 3.0, 3.0, 7.0, 8.0])
    bench.go()
    assert bench.at("save") == [1, 3, 4, 6, 7]
    assert bench.saves.steps() == [4, 7]
    best, newest = bench.saves.best(pytest.fail), bench.saves.newest(pytest.fail)
    assert best is not None
    assert newest is not None
    assert (best.step, best.metadata["val_loss"]) == (4, 3.0)
    assert (newest.step, newest.metadata["val_loss"]) == (7, 8.0)


def test_a_checkpoint_says_the_validation_loss_only_if_it_is_that_of_its_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path, eval_every=4, save_every=2, max_steps=6)
    bench.trainer.val_losses = iter([5.0, 4.0, 3.0])
    bench.go()
    found = [bench.saves.read(path) for path in bench.saves.folder.glob("*.metadata")]
    assert {one.step: one.metadata["val_loss"] for one in found} == {2: None, 4: 4.0, 6: 3.0}


# Resuming


@pytest.mark.parametrize("cut", [1, 3, 4, 7, 9])
@pytest.mark.parametrize("save_best", [False, True])
def test_a_run_in_two_parts_has_the_records_and_the_weights_of_one_in_one(
    tmp_path: Path, cut: int, save_best: bool
) -> None:
    options = {"eval_every": 4, "log_every": 2, "early_stop_patience": 5, "save_best": save_best, "log_norms": True}
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
    if save_best:
        best = [bench.saves.best(pytest.fail) for bench in (whole, second)]
        assert [found and (found.step, found.metadata["val_loss"]) for found in best] == [
            (state.best_step, state.best_val_loss)
        ] * 2


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
