"""The parent's end of `worker`: one process for each library and number of threads, asked in turns."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Self

from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.worker import WorkerJob


class Side(NamedTuple):
    """One side of the comparison."""

    library: str
    threads: int


class WorkerError(Exception):
    """A library failed, or took longer than it was given. The message says how."""


class Worker:
    """A process that measures one side; a context manager."""

    def __init__(self, side: Side, models: Models):
        self.side = side
        job = WorkerJob(library=side.library, threads=side.threads, models=models)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lm_bench.tokenizer.worker", job.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(side.threads),
        )

    def ask(self, do: str, timeout: float | None = None, **arguments: Any) -> dict[str, Any]:
        """The answer to one command.

        Raises:
            WorkerError: when the library failed, the process died, or `timeout` seconds passed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(timeout or 0, self._give_up, [late])
        if timeout:
            timer.start()
        try:
            self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise WorkerError(f"over {timeout:g} s" if late.is_set() else f"{do}: the process died")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{do}: {answer['error']}")
        return answer

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self.process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def environment(threads: int) -> dict[str, str]:
    """The variables by which libraries are told their threads; ours and some others have an argument for it."""
    return os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}


@contextmanager
def workers(sides: Iterable[Side], models: Models) -> Iterator[dict[Side, Worker]]:
    """A worker for each side; all end with the block."""
    with ExitStack() as stack:
        yield {side: stack.enter_context(Worker(side, models)) for side in sides}
