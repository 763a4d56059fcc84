"""A process that has imported a framework and forks a child for each trial, which saves seconds a trial.

    campaign --a JSON object a line--> server --fork--> child: `child.main`, its output in <run folder>.said

Torch with one thread computes in the calling thread, so one step is taken before the first fork and its one-off costs
are paid once. MLX has a thread for each stream: there, nothing is computed before the fork.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from lm_bench.faults import child, steps, token_forgeries
from lm_bench.faults.trial import MODEL, OPTIMIZER, STEP, Trial, data
from lm_core.backend import load_backend
from lm_core.model.init import initial_arrays
from lm_core.run.interrupts import Interrupts, stop_signals

TASKS: dict[str, Callable[[Trial], int]] = {"train": child.main, "steps": steps.main, "tokens": token_forgeries.main}
POLL = 0.0005


def serve(backend: str) -> None:
    """Take requests until the campaign closes its end."""
    _warm(backend)
    children: set[int] = set()
    print(json.dumps({"ready": backend}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer: dict[str, Any] = {"pid": _start(request["task"], Trial.parse(request["trial"]))}
            children.add(answer["pid"])
        else:
            answer = {"code": _wait(request["pid"], request["seconds"])}
            children.discard(request["pid"])
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _warm(backend: str) -> None:
    framework = load_backend(backend)
    batches = data().training
    if backend == "torch":
        trainer = framework.build(MODEL, OPTIMIZER, STEP, initial_arrays(MODEL, 0), 0)
        float(trainer.step(batches.batch(1), 1e-3)["loss_nats"])


def _start(task: str, trial: Trial) -> int:
    """Fork a child that notes signals from its first instant to its last.

    Before a program has its handlers, and after, a signal ends it like any other, which says nothing about a run.
    """
    if trial.parallel == "fsdp":
        importlib.import_module("torch.distributed.fsdp")  # a second or two, once
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    code = 70
    Interrupts(echo=0).__enter__()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        said = os.open(f"{trial.folder}.said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(source, target)
        code = TASKS[task](trial)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child, or minus the number of the signal that ended it; None when it had to be killed."""
    end = time.monotonic() + seconds
    late = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return None if late else os.waitstatus_to_exitcode(status)
        if not late and time.monotonic() > end:
            late = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)


if __name__ == "__main__":
    serve(sys.argv[1])
