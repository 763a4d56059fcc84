"""Row: the power is cut after each file operation of a run; what the disk may then hold (`disk`) is made and opened."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_bench.faults.bench import Bench
from lm_bench.faults.disk import State
from lm_bench.faults.outcome import Outcome
from lm_bench.faults.recording import CrashPoint, crash_points, record
from lm_bench.faults.row import Row
from lm_bench.faults.tracer import missing
from lm_bench.faults.trial import SAVE_EVERY, Trial
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder

STATES, RESUMED = 100, 50
VAIN_DRAWS = 100
"""Draws in a row that give a state seen before, after which there are taken to be no more."""


def power_cuts(bench: Bench, row: Row) -> None:
    """Up to 100 states at each crash point; some of them are resumed to the end."""
    row.skipped = missing()
    if row.skipped:
        return
    trial = bench.trial("power", stop_at_start=True, save_every=2 * SAVE_EVERY)
    calls = record(bench, trial)
    points = len(list(crash_points(calls, str(bench.folder), trial.announced)))
    wanted = set(bench.draw("power").permutation(points)[: bench.count(points, 20)].tolist())
    truth = _Truth(bench)
    resumable: list[tuple[CrashPoint, State]] = []
    for place, point in enumerate(crash_points(calls, str(bench.folder), trial.announced)):
        if place in wanted:
            frozen = CrashPoint(point.index, point.what, point.announced, point.disk.frozen())
            resumable += _cut_at(bench, row, trial, frozen, truth)
    chosen = bench.draw("power, resumed").permutation(len(resumable))[: bench.count(RESUMED, 2)]
    for i in sorted(chosen.tolist()):
        point, state = resumable[i]
        again = bench.trial(f"power-{i}")
        _make(point.disk.after(state), trial, Path(again.folder))
        bench.resume(row, again, _name(bench, point, state))
    row.notes.append(f"{len(wanted)} of {points} crash points, {len(truth.known)} different folders")
    if row.sound:
        bench.remove(trial)


class _Truth:
    """Checkpoints and log of an unharmed run."""

    def __init__(self, bench: Bench):
        self.records = bench.whole.records
        checkpoints = Checkpoints(RunFolder(bench.folder / "whole").checkpoints)
        self.known: dict[int, tuple[int, str]] = {}
        self.content = {
            checkpoint.step: _content(checkpoint)
            for checkpoint in map(checkpoints.read, checkpoints.folder.glob("*.metadata"))
        }

    def verdict(self, files: Mapping[str, bytes | None], trial: Trial, folder: Path) -> tuple[int, str]:
        """The step of what is found in a folder of these files, and what is wrong with it; empty when nothing is.

        Many states come to the same files, which are made and opened once.
        """
        key = hash(frozenset(files.items()))
        if key not in self.known:
            _make(files, trial, folder)
            found = Outcome.of(folder)
            shutil.rmtree(folder)
            self.known[key] = found.step, self._complaint(found)
        return self.known[key]

    def _complaint(self, found: Outcome) -> str:
        if found.checkpoint and _content(found.checkpoint) != self.content.get(found.step):
            return f"what is taken for the checkpoint of step {found.step} is not it"
        expected = [record for record in self.records if record["step"] <= found.step]
        if [record for record in found.records if record["step"] <= found.step] != expected:
            return f"the log of step {found.step} has {len(found.records)} records, not all of {len(expected)}"
        return ""


def _cut_at(bench: Bench, row: Row, trial: Trial, point: CrashPoint, truth: _Truth) -> list[tuple[CrashPoint, State]]:
    """Check states of one crash point; returns some that may be resumed."""
    draw, seen = bench.draw("cut", point.index), dict[State, None]()
    states = bench.count(STATES, 10)
    vain = 0
    while vain < VAIN_DRAWS and len(seen) < states:
        state = point.disk.draw(draw)
        vain = vain + 1 if state in seen else 0
        if vain:
            continue
        seen[state] = None
        row.trials += 1
        step, complaint = truth.verdict(point.disk.after(state), trial, bench.folder / "cut")
        if step < point.announced:
            row.lost_saves += 1
            complaint = f"step {point.announced} had been announced, found {step}; {complaint}"
        if complaint:
            row.violations.append(f"{_name(bench, point, state)}: {complaint}")
    return [(point, state) for state in list(seen)[:2]]


def _make(files: Mapping[str, bytes | None], trial: Trial, folder: Path) -> None:
    """The run folder after a crash."""
    folder.mkdir()
    for path, content in sorted(files.items()):
        if path.startswith(trial.folder + "/"):
            place = folder / path.removeprefix(trial.folder + "/")
            if content is None:
                place.mkdir()
            else:
                place.write_bytes(content)


def _content(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    arrays: dict[str, Any] = {**checkpoint.weights, **checkpoint.optimizer_state}
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _name(bench: Bench, point: CrashPoint, state: State) -> str:
    return f"--only power --seed {bench.seed}: cut after call {point.index} ({point.what}), {state}"
