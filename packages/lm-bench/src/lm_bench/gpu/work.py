"""Work of a job: `prepare` builds and compiles, the block that it returns is what is timed."""

import hashlib
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, SupportsFloat

import numpy as np
import torch

from lm_bench import peak
from lm_bench.cases import SEED, Case
from lm_bench.gpu.jobs import Job
from lm_bench.gpu.sides import Kernel, Profile, Report
from lm_bench.infer.sides import GREEDY, Decoded, Ours, Side, Theirs
from lm_bench.infer.workload import prompts_of
from lm_bench.train.sides import make_side, our_trainer
from lm_core.backend import Trainer, load_backend
from lm_core.config import Config, SamplingConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.model.init import initial_arrays

WARMUP_STEPS = 3
KERNELS = 24
"""How many of a profile are kept."""
PATIENCE = 30
"""How often a job that found no memory tries again: others hold it while they compile."""
_FULL = re.compile("out of memory|ALLOC_FAILED", re.IGNORECASE)
"""Their messages from torch, its libraries and Triton."""


class Sample(Config):
    """Figures of one block."""

    figure: float
    losses: tuple[float, ...] = ()
    """Of the steps: sides of a group that train one model have the same."""
    ids: tuple[int, ...] = ()
    """Of the first row: likewise where they decode."""
    note: str = ""


Block = Callable[[], Sample]


def start(job: Job) -> Block:
    """Its block, ready to be timed; what memory was taken on the way there does not count."""
    block = prepare(job)
    peak_gib(peak.device_type(job.step.device))
    return block


def report(job: Job, sample: Sample) -> Report:
    """Figures of a block, with the memory and the precision of the process."""
    return Report(**sample.model_dump(), peak_gib=peak_gib(peak.device_type(job.step.device)), tf32=tf32(job))


def prepare(job: Job) -> Block:
    """Do all that is done once; the block can be run any number of times."""
    device = peak.device_type(job.step.device)
    if job.kind == "product":
        return lambda: Sample(figure=peak.matrix_flops(device) / 1e12)
    if job.kind == "copy":
        return lambda: Sample(figure=peak.copy_bandwidth(device) / 1e12)
    if job.kind == "train":
        return Training(job, device).block
    if job.kind == "decode":
        return Decoding(job, device).block
    found = (bits if job.kind == "bits" else gradients)(job)
    return lambda: found


def case_of(job: Job) -> Case:
    """Its model, optimizer and batches."""
    assert job.model is not None
    return Case(job.side, job.model, job.optimizer, job.rows, job.lr, job.length)


def again_if_full(work: Callable[[], object]) -> None:
    """Do it; where the card has no room, wait until others have let go of theirs."""
    for patience in range(PATIENCE, -1, -1):
        try:
            work()
            return
        except (RuntimeError, UserError) as error:
            if not patience or not _FULL.search(f"{error} {error.__cause__}"):
                raise
        torch.cuda.empty_cache()
        time.sleep(5)


class Seeds:
    """Models that are trained together, as a side of which one step is a step of each."""

    def __init__(self, job: Job, case: Case):
        seeds = [SEED + k for k in range(job.seeds)]
        weights = [initial_arrays(case.model, seed) for seed in seeds]
        self.trainer = load_backend("torch").build_seeds(case.model, case.optimizer, job.step, weights, seeds)
        self.count = job.seeds

    def step(self, batch: Batch, lr: float) -> SupportsFloat:
        """The loss of the first."""
        loss: SupportsFloat = self.trainer.step([batch] * self.count, lr)[0]["loss_nats"]
        return loss


class Training:
    """Optimizer steps of one side."""

    def __init__(self, job: Job, device: str):
        self.job, self.device, self.case = job, device, case_of(job)
        self.batches = self.case.batches(job.steps + 1)
        again_if_full(self._begin)
        let_go(device)

    def _begin(self) -> None:
        """From the initial weights, each time that it is tried: what is compared later has taken the same steps."""
        job = self.job
        self.side = make_side(job.who, self.case, job.step) if job.seeds == 1 else Seeds(job, self.case)
        self._steps(WARMUP_STEPS)

    def _steps(self, count: int) -> list[SupportsFloat]:
        batches = [self.batches[i % len(self.batches)] for i in range(count)]
        return [self.side.step(batch, self.job.lr) for batch in batches]

    def block(self) -> Sample:
        """The steps of a block, after one that gets the memory back."""
        first = self._steps(1)
        peak.wait(self.device)
        started = time.perf_counter()
        losses = self._steps(self.job.steps)
        peak.wait(self.device)
        seconds = time.perf_counter() - started
        of_step = self.batches[0].tokens if self.job.unit == "tokens/s" else self.job.seeds
        values = tuple(float(loss) for loss in [*first, *losses])
        let_go(self.device)
        return Sample(figure=of_step * self.job.steps / seconds, losses=values)


def sampling_of(job: Job) -> SamplingConfig:
    """How ids are chosen."""
    return SamplingConfig(temperature=0.8, top_k=40, top_p=0.9) if job.how == "sampled" else GREEDY


class Decoding:
    """Ids after prompts of one length."""

    def __init__(self, job: Job, device: str):
        assert job.model is not None
        self.job = job
        weights = initial_arrays(job.model, SEED)
        self.prompts = prompts_of(job.model, job.rows, job.length)
        self.side: Side
        if job.who == "huggingface":
            self.side = Theirs(job.model, job.step, weights)
        else:
            self.side = Ours(job.model, job.step, weights, job.rows, partial(peak.wait, device), sampling_of(job))
        again_if_full(self._decode)

    def _decode(self) -> Decoded:
        return self.side.decode(self.prompts, self.job.steps)

    def block(self) -> Sample:
        """One text of each row."""
        decoded = self._decode()
        figure = len(self.prompts) / float(np.mean(decoded.latencies))
        return Sample(figure=figure, ids=tuple(decoded.ids[0]))


def let_go(device: str) -> None:
    """Give back the memory that torch keeps for the next step: another process is about to need it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def bits(job: Job) -> Sample:
    """Whether the steps give the same weights and optimizer state twice, and when stopped half-way and resumed."""
    case = case_of(job)
    batches = case.batches(job.steps)

    def run(trainer: Trainer, first: int, last: int) -> Trainer:
        for batch in batches[first:last]:
            trainer.step(batch, job.lr)
        return trainer

    half = job.steps // 2
    first, second = our_trainer(case, job.step), our_trainer(case, job.step)  # each compiles for itself
    start = first.weights(), first.optimizer_state()
    once, twice = _digest(run(first, 0, job.steps)), _digest(run(second, 0, job.steps))
    first.load(*start)
    run(first, 0, half)
    second.load(first.weights(), first.optimizer_state())
    again = _digest(run(second, half, job.steps))
    words = [
        f"twice: {'equal' if once == twice else 'NOT equal'}",
        f"resumed: {'equal' if once == again else 'NOT equal'}",
    ]
    return Sample(figure=float(once == twice == again), note=", ".join(words))


def _digest(trainer: Trainer) -> str:
    digest = hashlib.sha1()
    for arrays in (trainer.weights(), trainer.optimizer_state()):
        for name in sorted(arrays):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def gradients(job: Job) -> Sample:
    """Gradients, and the losses of some steps, on the device and on the CPU."""
    case = case_of(job)
    batches = case.batches(job.steps)
    here, there = (our_trainer(case, job.step.model_copy(update=update)) for update in ({}, {"device": "cpu"}))
    ours, theirs = (trainer.gradients(batches[0])[1] for trainer in (here, there))
    worst = max(_relative(ours[name], theirs[name]) for name in theirs if not name.endswith("k_proj.bias"))
    curves = [[float(trainer.step(batch, job.lr)["loss_nats"]) for batch in batches] for trainer in (here, there)]
    apart = max(abs(a - b) for a, b in zip(*curves, strict=True))
    return Sample(figure=worst, note=f"losses of {job.steps} steps within {apart:.1e} nats")


def _relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def profile(block: Block) -> Profile:
    """Run a block under torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        block()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)[:KERNELS]
    return Profile(
        kernels=tuple(
            Kernel(name=event.key[:80], calls=event.count, microseconds=event.self_device_time_total)
            for event in events
        )
    )


def tf32(job: Job) -> bool:
    """Whether float32 products go through TF32."""
    return job.step.matmul_precision != "highest" or torch.get_float32_matmul_precision() != "highest"


def peak_gib(device: str) -> float | None:
    """The most that torch held of the card since the last call: what is allocated leaves out a graph's memory."""
    if device != "cuda":
        return None
    most = torch.cuda.max_memory_reserved() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return float(most)
