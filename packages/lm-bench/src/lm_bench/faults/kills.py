"""Rows: SIGKILL at random instants, chains of kills, and the signals that ask a run to stop."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from lm_bench.faults.bench import Bench, Started
from lm_bench.faults.row import Row
from lm_bench.faults.trial import KEEP, Trial

LINKS = 5
STOPS_WITHIN = 2.0
"""Seconds that the second signal may take in a whole campaign. Its short form is a test, and a test bounds no time."""


def killed_once(bench: Bench, row: Row) -> None:
    """SIGKILL at an instant that is uniform over a run's duration."""
    duration = bench.duration
    for i in range(bench.count(200)):
        what = f"--only kill --seed {bench.seed}, trial {i}"
        trial = bench.trial(f"kill-{i}")
        _kill(bench, trial, bench.draw("kill", i).uniform(0, duration))
        row.trials += 1
        bench.check_kept(row, trial, what)
        bench.resume(row, trial, what)


def killed_in_a_row(bench: Bench, row: Row) -> None:
    """Five times the same run, each time within what is left of it."""
    duration = bench.duration
    for i in range(bench.count(50, 1)):
        draw, trial = bench.draw("chain", i), bench.trial(f"chain-{i}")
        what = f"--only chain --seed {bench.seed}, trial {i}"
        for _ in range(LINKS):
            _kill(bench, trial, draw.uniform(0, duration / 2))
            bench.check_kept(row, trial, what)
        row.trials += 1
        bench.resume(row, trial, what)


def asked_to_stop(bench: Bench, row: Row) -> None:
    """SIGINT and SIGTERM: the run saves where it is and ends with 0. Every fourth one lands within a save."""
    duration = bench.duration
    inside = 0
    for name in ("SIGINT", "SIGTERM"):
        for i in range(bench.count(100, 1)):
            draw = bench.draw(name, i)
            what = f"--only interrupt --seed {bench.seed}, {name} {i}"
            trial = bench.trial(f"{name}-{i}", stall=0.02 if i % 4 == 0 else 0.0)
            started = bench.start(trial)
            if i % 4 == 0:
                inside += wait_for_a_save(trial, draw)
            else:
                time.sleep(draw.uniform(0, duration))
            _send(started, getattr(signal, name))
            code = bench.finish(started)
            row.trials += 1
            found = bench.check_kept(row, trial, what)
            if code != 0:
                row.violations.append(f"{what}: exit code {code}: {bench.said(trial)[-300:]}")
            elif found.step != found.logged:
                row.violations.append(f"{what}: it had come to step {found.logged}, and saved {found.step}")
            bench.resume(row, trial, what)
    row.notes.append(f"{inside} signals came during a save")


def asked_twice(bench: Bench, row: Row) -> None:
    """A second signal ends the process at once, also while a save hangs on a slow disk."""
    times = []
    duration = bench.duration
    for i in range(bench.count(20, 2)):
        draw = bench.draw("twice", i)
        name = ("SIGINT", "SIGTERM")[i % 2]
        what = f"--only second --seed {bench.seed}, {name} {i}"
        slow = i % 4 in (0, 3)
        trial = bench.trial(f"twice-{i}", stall=0.2 if slow else 0.0, pace=0.0 if slow else 0.02)
        started = bench.start(trial)
        if slow:
            wait_for_a_save(trial, draw)
        else:
            time.sleep(draw.uniform(0.02, duration))
        _send(started, getattr(signal, name))
        time.sleep(0.05 if slow else 0.005)
        begun = time.monotonic()
        _send(started, getattr(signal, name))
        code = bench.finish(started)
        times.append(time.monotonic() - begun)
        row.trials += 1
        if code not in (0, 128 + getattr(signal, name)):
            row.violations.append(f"{what}: exit code {code}")
        if bench.share >= 1 and times[-1] > STOPS_WITHIN:
            row.violations.append(f"{what}: it took {times[-1]:.2f} s to end")
        bench.check_kept(row, trial, what)
        bench.resume(row, trial, what)
    row.notes.append(f"the second signal took {max(times):.3f} s at most")


def _kill(bench: Bench, trial: Trial, after: float) -> None:
    started = bench.start(trial)
    time.sleep(after)
    _send(started, signal.SIGKILL)
    bench.finish(started)


def _send(started: Started, number: int) -> None:
    """A child that has ended is a zombie until it is waited for, so its id is nobody else's."""
    os.kill(started.pid, number)


def wait_for_a_save(trial: Trial, draw: np.random.Generator) -> bool:
    """Until a file of a save lies beside its place; with slow flushes it does so for long."""
    checkpoints = Path(trial.folder) / "checkpoints"
    saves = int(draw.integers(0, KEEP, endpoint=True))
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if len(list(checkpoints.glob("*.metadata"))) >= saves and any(checkpoints.glob("*.new")):
            return True
        time.sleep(0.001)
    return False
