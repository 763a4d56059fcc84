"""One worker of a study: `python -m lm_bench.study.worker APP PARENT`, a process that does one job after another.

    standard input   --JSON lines--> a job, a list of trials: their configs, their run folders
    standard output  <--JSON lines-- {} when it is ready, and after each job whether it is finished

It imports the program once, so that only the first run pays for it. What a run prints goes to a file beside its folder.
It ends with the process that has started it, however that ends; SIGTERM lets the run save and stop.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lm_bench.study.result import RunResult, Status
from lm_core import terminal
from lm_core.errors import NonFiniteError, UserError, lacks_memory
from lm_core.page import leave_pictures_out
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records
from lm_core.run.session import PEAK_MEMORY, read_result
from lm_core.run.together import Group
from lm_pipeline.trials.program import Program, program_of

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS, _PATIENCE_SECONDS = 0.5, 20.0
_RESET_PEAK = b"5"
"""Written to clear_refs, it starts the count of VmHWM again (proc_pid_clear_refs(5))."""


def main() -> int:
    """The program; returns its exit code."""
    name, parent = sys.argv[1], int(sys.argv[2])
    _end_with(parent)
    commands, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    terminal.prepare()
    leave_pictures_out()
    program = program_of(name)
    answers.write("{}\n")
    for line in commands:
        tasks = json.loads(line)
        _print_to(tasks[0]["log"])
        finished = run_job(program, tasks)
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()  # what the program has imported, which takes a third of a second to look through
        answers.write(json.dumps({"finished": finished}) + "\n")
    return 0


def run_job(program: Program, tasks: Sequence[Mapping[str, Any]]) -> bool:
    """Run the trials of a job, several as one model; returns whether all are finished, and were not stopped before."""
    if len(tasks) == 1:
        return run_trial(program, tasks[0]) is not None
    outcomes = Group((f"seed {task['seed']}", partial(run_trial, program, task)) for task in tasks).run()
    if None in outcomes:
        return False  # stopped: whatever else went wrong, the job is resumed
    if error := next((one for one in outcomes if isinstance(one, Exception)), None):
        raise error
    return True


def run_trial(program: Program, task: Mapping[str, Any]) -> RunResult | None:
    """Run a trial to its end, new or resumed, and keep its result; None where it was stopped before.

    One that has its result, as may others of its job, is left as it is.

    Args:
        program: trains it.
        task: `config`, the file of its config; `folder`; `metric`; and the fields of its result that are known already.
    """
    folder = RunFolder(Path(task["folder"]))
    if known_result := RunResult.read(folder.path):
        return known_result
    status: Status = "complete"
    message = ""
    gc.collect()
    _reset_peak()
    _wait_for(folder)
    try:
        resume = ["--resume"] if folder.holds_run() else []
        program.run(["--config", task["config"], "--save_dir", task["folder"], *resume])
    except Exception as error:
        status, message = status_of(error), " ".join(str(error).split()) or type(error).__name__
    result = read_result(folder)
    if status == "complete" and not result:
        return None
    last = _last_record(folder)
    known = ("arm", "point", "budget", "seed", "backend", "stage", "config_hash")
    finished = RunResult(
        **{key: task[key] for key in known},
        status=status,
        message=message,
        metric=result.get(task["metric"]) if status == "complete" else None,
        seconds=float(result.get("metrics.seconds") or last.get("seconds") or 0.0),
        steps_done=int(result.get("step") or last.get("step") or 0),
        peak_bytes=result.get(PEAK_MEMORY),
        folder=folder.path,
    )
    finished.write()
    return finished


def status_of(error: BaseException) -> Status:
    """How a run has ended that raised an error; a cause counts too, such as that of the line on a full memory."""
    if isinstance(error, NonFiniteError):
        return "diverged"
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    return "out of memory" if any(map(lacks_memory, chain)) else "failed"


def _wait_for(folder: RunFolder) -> None:
    """Wait until the worker of a study that was killed has let go of a run, which it does as it ends."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while folder.path.exists() and time.monotonic() < end:
        try:
            with folder.hold():
                return
        except UserError:
            time.sleep(_POLL_SECONDS / 10)


def _last_record(folder: RunFolder) -> Mapping[str, Any]:
    """The last record of a run; empty where it has none."""
    with suppress(OSError):
        return (read_records(folder.metrics) or [{}])[-1]
    return {}


def _end_with(parent: int) -> None:
    """End this process when the one that has started it ends: at once on Linux, within a second elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _print_to(path: str) -> None:
    """Send what is printed from now on to a file, after what it holds."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def _reset_peak() -> None:
    """Start the count of the peak memory again, so that a run has its own."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(_RESET_PEAK)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    mlx = sys.modules.get("mlx.core")
    if mlx is not None:
        mlx.clear_cache()
        mlx.reset_peak_memory()


if __name__ == "__main__":
    sys.exit(main())
