"""Room on the card: of the sides that get ready side by side, no more at a time than it holds."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from lm_bench.gpu.jobs import Job
from lm_core.model.parameters import parameter_count

CONTEXT_BYTES = 1 << 30
"""Of a process that uses the card: its context, kernels and workspaces."""
PARAMETER_BYTES = {"train": 20, "decode": 6}
"""Weight, gradient, both averages of AdamW, and copies in the computing type; without a step, the weight and a copy."""
ACTIVATION_BYTES = {True: 36, False: 60}
"""Of one number of the residual stream in one layer, ours and compiled or not: as 124 M in bfloat16 took on an H100."""


def resting_bytes(job: Job) -> int:
    """What a side holds between its blocks: estimate."""
    parameters = 0 if job.model is None else parameter_count(job.model) * job.seeds
    return CONTEXT_BYTES + PARAMETER_BYTES.get(job.kind, PARAMETER_BYTES["train"]) * parameters


def needed_bytes(job: Job) -> int:
    """The most that a side takes: estimate."""
    needed = resting_bytes(job)
    if job.kind != "train" or job.model is None:
        return needed + CONTEXT_BYTES
    numbers = job.rows * job.seeds * job.length * job.model.d_model * job.model.n_layers // job.step.grad_accum_steps
    return needed + numbers * ACTIVATION_BYTES[job.who == "ours" and job.step.compile]


def timed_bytes(jobs: Sequence[Job]) -> int:
    """The most that sides take which are all ready, and of which one works: estimate."""
    return sum(map(resting_bytes, jobs)) + max(needed_bytes(job) - resting_bytes(job) for job in jobs)


class Room:
    """Bytes of the card, of which sides that run in threads take some."""

    def __init__(self, free: float):
        self.free = free
        self.taken = 0
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, job: Job) -> Iterator[Callable[[], None]]:
        """Wait until there is room for the job, or nobody else takes any; what it keeps afterwards, where it is said to
        be ready by a call, is what it holds at rest."""
        needed, kept = needed_bytes(job), 0

        def is_ready() -> None:
            nonlocal kept
            kept = resting_bytes(job)

        with self.changed:
            self.changed.wait_for(lambda: needed <= self.free or not self.taken)
            self.free -= needed
            self.taken += 1
        try:
            yield is_ready
        finally:
            with self.changed:
                self.free += needed - kept
                self.taken -= 1
                self.changed.notify_all()
