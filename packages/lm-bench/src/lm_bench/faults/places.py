"""Row: what the machine around a run may do, and the person: rights, limits, a second process, a clock, own files."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lm_bench.faults.bench import Bench
from lm_bench.faults.outcome import Outcome
from lm_bench.faults.row import Row
from lm_bench.faults.trial import DIED_AT, SAVE_EVERY, Trial

LIMIT = 16384
"""Bytes; either file of a checkpoint has more."""
A_YEAR = 365 * 86400.0


def surroundings(bench: Bench, row: Row) -> None:
    """Each case as often as the share says."""
    for i in range(bench.count(10, 1)):
        for case in CASES:
            case(bench, row, i)


def read_only(bench: Bench, row: Row, i: int) -> None:
    """A folder that may not be written to is one line, exit code 2, and stays as it is."""
    trial, what = _begun(bench, "read-only", i)
    folder = Path(trial.folder)
    places = (folder, folder / "checkpoints")
    before = _content(folder)
    for place in places:
        place.chmod(0o555)
    code = bench.finish(bench.start(trial.model_copy(update={"without_rights": True})))
    for place in places:
        place.chmod(0o755)
    row.trials += 1
    last = (bench.said(trial).splitlines() or [""])[-1]
    if code != 2 or "cannot write" not in last:
        row.violations.append(f"{what}: exit code {code}: {last}")
    # The lock file may say who was there last.
    if {**_content(folder), "lock": b""} != {**before, "lock": b""}:
        row.violations.append(f"{what}: files have changed")
    bench.resume(row, trial, what)


def unreadable(bench: Bench, row: Row, i: int) -> None:
    """A newest checkpoint that may not be read is named, and nothing is taken for it, trained or deleted."""
    trial, what = _begun(bench, "unreadable", i)
    folder, newest = Path(trial.folder), Outcome.of(Path(trial.folder)).checkpoint
    assert newest
    victim = newest.path.with_suffix((".metadata", ".safetensors")[i % 2])
    before = _content(folder)
    victim.chmod(0)
    code = bench.finish(bench.start(trial.model_copy(update={"without_rights": True})))
    victim.chmod(0o644)
    row.trials += 1
    last = (bench.said(trial).splitlines() or [""])[-1]
    if code != 2 or victim.name not in last or "Permission denied" not in last:
        row.violations.append(f"{what}: exit code {code}: {last}")
    if {**_content(folder), "lock": b""} != {**before, "lock": b""}:
        row.violations.append(f"{what}: files have changed")
    bench.resume(row, trial, what)


def own_copies(bench: Bench, row: Row, i: int) -> None:
    """A person's copies among the checkpoints are there at the end, as they were."""
    trial, what = _begun(bench, "own-copies", i)
    folder, newest = Path(trial.folder) / "checkpoints", Outcome.of(Path(trial.folder)).checkpoint
    assert newest
    copies = {}
    for suffix in (".metadata", ".safetensors", ".new"):
        source = newest.path.with_suffix(".safetensors" if suffix == ".new" else suffix)
        path = folder / f"my-best{suffix}"
        path.write_bytes(source.read_bytes())
        copies[path] = path.read_bytes()
    code = bench.finish(bench.start(trial))
    row.trials += 1
    lost = [path.name for path, data in copies.items() if not path.is_file() or path.read_bytes() != data]
    if code or lost:
        row.violations.append(f"{what}: exit code {code}, lost or changed: {lost}")
    bench.resume(row, trial, what)


def no_folder_flush(bench: Bench, row: Row, i: int) -> None:
    """A file system that cannot flush folders is noted once, and the run ends as ever."""
    trial, what = _begun(bench, "no-folder-flush", i)
    code = bench.finish(bench.start(trial.model_copy(update={"folder_flush": False})))
    row.trials += 1
    notes = bench.said(trial, None).count("cannot flush a folder")
    if code or notes != 1:
        row.violations.append(f"{what}: exit code {code}, noted {notes} times: {bench.said(trial)[-300:]}")
    bench.resume(row, trial, what)


def size_limit(bench: Bench, row: Row, i: int) -> None:
    """No file may grow beyond half a checkpoint: saves fail, the last one ends the run with 2; nothing is lost."""
    trial, what = _begun(bench, "size-limit", i)
    limited = trial.model_copy(update={"file_limit": LIMIT})
    code = bench.finish(bench.start(limited))
    row.trials += 1
    said = bench.said(trial)
    if code != 2 or "could not be saved" not in said:
        row.violations.append(f"{what}: exit code {code}: {said[-300:]}")
    found = bench.check_kept(row, trial, what)
    if list((Path(trial.folder) / "checkpoints").glob("*.new")):
        row.violations.append(f"{what}: a failed save left a file of step {found.step}'s folder")
    bench.resume(row, trial, what)


def size_signal(bench: Bench, row: Row, i: int) -> None:
    """The same where the limit kills."""
    trial, what = _begun(bench, "size-signal", i)
    limited = trial.model_copy(update={"file_limit": LIMIT, "limit_kills": True})
    code = bench.finish(bench.start(limited))
    row.trials += 1
    if code != -signal.SIGXFSZ:
        row.violations.append(f"{what}: exit code {code}")
    bench.check_kept(row, trial, what)
    bench.resume(row, trial, what)


def second_process(bench: Bench, row: Row, i: int) -> None:
    """While one runs, another is refused and told who it is; once the first is killed, the next one resumes."""
    trial, what = bench.trial(f"second-process-{i}", pace=0.5), f"--only places, second-process {i}"
    first = bench.start(trial)
    _until(lambda: Outcome.of(Path(trial.folder)).logged >= 2)
    code = bench.finish(bench.start(trial))
    row.trials += 1
    if code != 2 or f"process {first.pid}" not in bench.said(trial, None):
        row.violations.append(f"{what}: the second ended with {code}: {bench.said(trial)[-300:]}")
    os.kill(first.pid, signal.SIGKILL)
    if bench.finish(first) != -signal.SIGKILL:
        row.violations.append(f"{what}: the first did not continue")
    bench.check_kept(row, trial, what)
    bench.resume(row, trial, what)


def wrong_clock(bench: Bench, row: Row, i: int) -> None:
    """The newest checkpoint is that with the most steps, whatever the clock says."""
    trial, what = _begun(bench, "wrong-clock", i)
    checkpoints = Path(trial.folder) / "checkpoints"
    now, direction = time.time(), 1 if i % 2 else -1
    found = Outcome.of(Path(trial.folder))
    assert found.checkpoint
    for path in checkpoints.iterdir():
        is_newest = path.stem == found.checkpoint.path.stem
        shift = direction * A_YEAR * (-1 if is_newest else 1)
        os.utime(path, (now + shift, now + shift))
    shifted = trial.model_copy(update={"die_at": DIED_AT + SAVE_EVERY, "clock": direction * A_YEAR})
    bench.finish(bench.start(shifted))
    row.trials += 1
    if f"at step {found.step} of" not in bench.said(trial, None):
        row.violations.append(f"{what}: step {found.step} is not what it resumed from")
    bench.check_kept(row, trial, what)
    bench.resume(row, trial, what)


CASES: tuple[Callable[[Bench, Row, int], None], ...] = (
    *((read_only, unreadable) if sys.platform == "linux" or os.getuid() else ()),
    own_copies,
    no_folder_flush,
    size_limit,
    size_signal,
    second_process,
    wrong_clock,
)


def _begun(bench: Bench, case: str, i: int) -> tuple[Trial, str]:
    """A run that was killed, and what it is called."""
    return bench.begun(f"{case}-{i}"), f"--only places, {case} {i}"


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120  # what takes longer hangs
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
