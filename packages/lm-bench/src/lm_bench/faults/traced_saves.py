"""Row: every operation of a save, killed there and failed there.

One save is traced first, which gives the operations by name and number; each of them is then a trial of its own.
"""

import os
import signal
from pathlib import Path

from lm_bench.faults.bench import Bench
from lm_bench.faults.outcome import Outcome, differences
from lm_bench.faults.row import Row
from lm_bench.faults.tracer import CALLS, CHANGING, attach, missing, read_trace, stopped_thread
from lm_bench.faults.trial import SAVE_EVERY

SAVE = 3
"""The first save that removes an older checkpoint, too."""
SAVED_STEP = SAVE * SAVE_EVERY
ATTEMPTS = 5
"""How often to try to meet the last write: how many there are depends on the digits of the times in a checkpoint."""
FAULTS = {"KILL": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}


def every_operation(bench: Bench, row: Row) -> None:
    """Killed: the checkpoint before is there. Failed: that, and the run says so, continues and ends well."""
    row.skipped = missing()
    if row.skipped:
        return
    points = _operations(bench)
    chosen = [(name, number, fault) for name, number in points for fault in FAULTS]
    if bench.share < 1:
        picked = bench.draw("save").permutation(len(chosen))[: bench.count(len(chosen), 4)]
        chosen = [chosen[i] for i in sorted(picked)]
    for name, number, fault in chosen:
        _hurt(bench, row, name, number, fault)
    row.notes.append(f"{len(points)} operations in a save")


def _operations(bench: Bench) -> list[tuple[str, int]]:
    """(name, how many-eth of that name in the thread) of a save's operations on the run folder."""
    trial = bench.trial("save-counted", stop_at_save=SAVE)
    _run_with(bench, "save-counted", [])
    trace = Path(f"{trial.folder}.trace")
    seen: dict[str, int] = {}
    points = []
    for call in read_trace(trace):
        seen[call.name] = seen.get(call.name, 0) + 1
        path = call.descriptor[1] or (call.strings or [""])[0]
        if path.startswith(trial.folder + "/") and call.name in CHANGING and _changes(call.name, call.text):
            points.append((call.name, seen[call.name]))
    bench.remove(trial)
    return points


def _changes(name: str, text: str) -> bool:
    return not name.startswith("open") or "O_CREAT" in text


def _hurt(bench: Bench, row: Row, name: str, number: int, fault: str) -> None:
    what = f"--only save, {fault} at {name} {number} of the save of step {SAVED_STEP}"
    label = f"save-{name}-{number}-{fault}"
    trial = bench.trial(label)
    for _ in range(ATTEMPTS):
        bench.remove(trial)
        code = _run_with(bench, label, ["-e", f"inject={name}:{FAULTS[fault]}:when={number}"])
        if code == -signal.SIGKILL or "(INJECTED)" in Path(f"{trial.folder}.trace").read_text():
            break
    else:
        row.violations.append(f"{what}: the fault was never met")
        return
    row.trials += 1
    if fault == "KILL":
        found = bench.check_kept(row, trial, what)
        if found.step < SAVED_STEP - trial.save_every:
            row.violations.append(f"{what}: only step {found.step} is left")
        bench.resume(row, trial, what)
        return
    said = bench.said(trial)
    wrong = differences(Outcome.of(Path(trial.folder)), bench.whole)
    row.resumed += 1
    row.same += not wrong
    if code != 0 or wrong:
        row.violations.append(f"{what}: exit code {code}, it ends otherwise: {wrong[:4]} {said[-300:]}")
    bench.check_kept(row, trial, what)
    announced = {step for step, _ in bench.announced(trial)}
    if SAVED_STEP not in announced and "not saved" not in bench.said(trial, None):
        row.violations.append(f"{what}: neither saved nor said so")
    if not wrong:
        bench.remove(trial)


def _run_with(bench: Bench, label: str, options: list[str]) -> int | None:
    """A run in which a save is traced, with faults if any; its exit code."""
    trial = bench.trial(label, stop_at_save=SAVE)
    started = bench.start(trial)
    thread = stopped_thread(bench, trial, started)
    assert thread, f"the run ended before the save of step {SAVED_STEP}: {bench.said(trial)}"
    tracer = attach(thread, Path(f"{trial.folder}.trace"), "-e", f"trace={CALLS}", *options)
    os.kill(started.pid, signal.SIGCONT)
    code = bench.finish(started)
    tracer.wait(10)
    return code
