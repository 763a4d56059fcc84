"""Peak memory of one side in a process of its own: `python -m lm_bench.train.memory JOB`, the job as JSON.

On a CPU the process's resident memory, on a GPU what torch has allocated there.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from lm_bench.flags import BackendName
from lm_bench.memory import MIB, Memory, peak_mib
from lm_bench.train.sides import CHECKPOINTING, OURS, Who, import_side, make_side, step_config
from lm_bench.train.workload import workload
from lm_core.config import Config, Dtype

MEMORY_STEPS = 5
"""The second step is the first that has gradients, optimizer state and activations all at once."""


class TrainMemoryJob(Config):
    """Job of the child process."""

    who: Who
    dtype: Dtype
    case: str
    device: Literal["cpu", "cuda"]
    compile: bool
    batch_size: int
    seq_len: int
    backend: BackendName = "torch"
    steps: int = MEMORY_STEPS


@dataclass(frozen=True)
class PeakMemory:
    """One side's memory on one case."""

    case: str
    side: str
    memory: Memory


def measure(job: TrainMemoryJob) -> Memory:
    """Run `job` in a fresh process."""
    command = [sys.executable, "-m", "lm_bench.train.memory", job.model_dump_json()]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Memory(**json.loads(child.stdout.splitlines()[-1]))


def run(job: TrainMemoryJob) -> Memory:
    """Run `job` in this process."""
    import_side(job.who, job.backend)
    if job.backend == "torch" and job.who not in (OURS, CHECKPOINTING):
        # The first torch.optim optimizer imports torch's compiler, some 150 MiB: code, not what the training holds.
        importlib.import_module("torch._dynamo")
    imported = peak_mib()
    case = workload(job.case, job.device, job.batch_size, job.seq_len)
    config = step_config(job.dtype, job.compile, "gpu" if job.device == "cuda" else "cpu")
    side = make_side(job.who, case, config, job.backend)
    losses = [side.step(batch, case.lr) for batch in case.batches(job.steps)]
    float(losses[-1])
    if job.device == "cuda":
        return Memory(0.0, importlib.import_module("torch").cuda.max_memory_allocated() / MIB)
    return Memory(imported, peak_mib())


if __name__ == "__main__":
    print(json.dumps(asdict(run(TrainMemoryJob.model_validate_json(sys.argv[1])))))
