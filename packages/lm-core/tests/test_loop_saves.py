"""Saves of a run: beside its steps, on a disk that fails, and of the best."""

import math
import threading
import time
from pathlib import Path

import pytest

from lm_core.errors import NonFiniteError, UserError
from lm_core.run.checkpoint import DamagedError
from lm_core.run.log import RecordFile
from lm_core.run.writer import Writer

from .loop_bench import FULL, Bench, Crash

# What goes wrong with the disk


@pytest.mark.parametrize("failure", [FULL, DamagedError("what was read back is not what was written")])
def test_a_save_that_fails_is_reported_and_training_goes_on(
    tmp_path: Path, failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, save_every=3)
    bench.extras = {"retry_seconds": [3600]}
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
    collect = Writer.collect
    monkeypatch.setattr(Writer, "collect", lambda writer, wait: collect(writer, wait=True))  # before the next step
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
