"""Peak memory of one side, in a process of its own: `python -m lm_bench.memory JOB`, the job as JSON.

The host's memory: what a GPU holds is not in it.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lm_bench.cases import CASES
from lm_bench.sides import BackendName, SideName, import_framework, make_step
from lm_core.config import Config, Dtype, StepConfig

MIB = 2**20


class MemoryJob(Config):
    """What the child process runs."""

    backend: BackendName
    side: SideName
    case: str
    steps: int
    dtype: Dtype
    compile: bool
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Memory:
    """Resident memory in MiB."""

    imported: float
    """Peak after the imports, before anything is built."""
    peak: float
    """Peak over the whole process."""

    @property
    def added(self) -> float:
        """What model, optimizer and steps add."""
        return self.peak - self.imported


def peak_mib() -> float:
    """The most memory this process has had resident."""
    # On Linux ru_maxrss survives exec: a child of a big process starts with its parent's peak. VmHWM starts anew.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MIB
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def measure(job: MemoryJob) -> Memory:
    """Run `job` in a fresh process."""
    command = [sys.executable, "-m", "lm_bench.memory", job.model_dump_json()]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Memory(**json.loads(child.stdout.splitlines()[-1]))


def run(job: MemoryJob) -> Memory:
    """Run `job` in this process."""
    case = CASES[job.case]
    import_framework(job.backend, job.side)
    if job.backend == "torch" and job.side == "bare":
        # The first torch.optim optimizer imports torch's compiler, some 150 MiB: code, not what the training holds.
        importlib.import_module("torch._dynamo")
    imported = peak_mib()
    config = StepConfig(dtype=job.dtype, compile=job.compile, gradient_checkpointing=job.gradient_checkpointing)
    step = make_step(job.backend, job.side, case, config)
    losses = [step(batch) for batch in case.batches(job.steps)]
    float(losses[-1])
    return Memory(imported, peak_mib())


if __name__ == "__main__":
    print(json.dumps(asdict(run(MemoryJob.model_validate_json(sys.argv[1])))))
