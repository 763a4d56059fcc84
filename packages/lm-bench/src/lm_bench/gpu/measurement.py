"""`lm-bench gpu`: groups in waves; of a wave, all sides get ready side by side, then one at a time is timed.

So compiling, which takes most of the time, is done on all cores at once, as far as the card's memory goes, and what is
timed has card and cores alone.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lm_bench.agreement import TOLERANCE_NATS
from lm_bench.environment import core_count
from lm_bench.flags import GpuFlags, GpuPart
from lm_bench.gpu.jobs import SEED_STEPS, Group, Job, groups_of
from lm_bench.gpu.preparation import Preparation, Start
from lm_bench.gpu.room import Room, timed_bytes
from lm_bench.gpu.sides import Kernel, Local, Process, Report, Side, SideError
from lm_bench.infer.measurement import common_start
from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_core.model.flops import flops_per_token

READY_SECONDS = 200.0
"""For all sides of a wave together: a compiler that hangs may not take the whole time."""
READY_SHARE = 0.6
"""Of the time that is left, at most: a side that is slow to get ready may not leave none to time the others in."""
BLOCK_SECONDS = 60.0
PROFILE_SECONDS = 20.0
LEAST_SECONDS = 45.0
"""A wave is not started with less time than this."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One side of a group."""

    part: GpuPart
    group: str
    side: str
    unit: str
    figure: Quartiles | None = None
    """None where there is none; the note says why."""
    ratio: Quartiles | None = None
    """The figure of the group's first side over this one, round by round; above 1 the first is faster."""
    peak_gib: float | None = None
    tflops: float | None = None
    """Operations that the model needs, per second."""
    tf32: bool = False
    note: str = ""
    kernels: tuple[Kernel, ...] = ()
    """Of one block of the group's first side, on a card: where its time goes."""


@dataclass
class Results:
    """All that was measured."""

    device: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0


def measure(flags: GpuFlags, device: str, say: Callable[[str], None], emit: Callable[[Row], None]) -> Results:
    """Measure what the flags ask for; `emit` gets each row as soon as it is there."""
    started = time.monotonic()
    until = started + flags.budget_seconds
    results = Results(device)
    groups = groups_of(device, flags.parts)
    limit = flags.processes or core_count()
    start: Start = process if device == "cuda" else lambda job, _: Local(job)
    free, at_once = (_free_bytes(), limit) if device == "cuda" else (math.inf, 1)
    for wave in waves(groups, limit, free):
        say(f"{time.monotonic() - started:.0f} s: getting ready: {'; '.join(group.title for group in wave)} ...")
        preparation = Preparation(start, Room(free), at_once)
        for row in _measure_wave(wave, flags.rounds, until, preparation, partial(_after, started, say)):
            emit(row)
            results.rows.append(row)
    results.seconds = time.monotonic() - started
    return results


def _after(started: float, say: Callable[[str], None], text: str) -> None:
    say(f"{time.monotonic() - started:.0f} s: {text}")


def _free_bytes() -> int:
    """Of the card, before any side takes some."""
    import torch

    return torch.cuda.mem_get_info()[0]


def process(job: Job, together: int) -> Process:
    """A process that shares the cores with the others that compile."""
    threads = max(1, core_count() // together)
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return Process(job, environment)


def waves(groups: Sequence[Group], limit: int, free: float) -> Iterator[list[Group]]:
    """Groups in their order, one at least at a time, and as many as have no more than `limit` sides together, and leave
    room for each while the others wait."""
    wave: list[Group] = []
    for group in groups:
        jobs = [job for each in [*wave, group] for job in each.jobs]
        if wave and (len(jobs) > limit or timed_bytes(jobs) > free):
            yield wave
            wave = []
        wave.append(group)
    if wave:
        yield wave


def _measure_wave(
    wave: Sequence[Group], rounds: int, until: float, preparation: Preparation, say: Callable[[str], None]
) -> Iterator[Row]:
    left = until - time.monotonic()
    if left < LEAST_SECONDS:
        yield from (_missing(group, job, "no time was left") for group in wave for job in group.jobs)
        return
    patience = min(READY_SECONDS, READY_SHARE * left)
    with preparation.of([job for group in wave for job in group.jobs], patience) as sides:
        for group in wave:
            say(f"timing: {group.title}")
            yield from _measure_group(group, sides, rounds, until, preparation.failures)
            for job in group.jobs:
                if job in sides:
                    sides[job].end()


def _measure_group(
    group: Group, sides: Mapping[Job, Side], rounds: int, until: float, failures: dict[Job, str]
) -> Iterator[Row]:
    def block(job: Job) -> Report | None:
        left = until - time.monotonic()
        if job in failures or left <= 0:
            return None
        try:
            return sides[job].block(min(left + 5, BLOCK_SECONDS))
        except SideError as error:
            failures[job] = str(error)
            return None

    once = group.part in ("bits", "gradients")  # found on the way to being ready
    reports = interleaved(group.jobs, 1 if once else rounds, block, 0 if once else 1)
    first = group.jobs[0]
    for job in group.jobs:
        if job in failures or not any(reports[job]):
            yield _missing(group, job, failures.get(job, "no time was left"))
            continue
        row = _row(group, job, reports[job], None if job is first else reports[first])
        yield row if job is not first or once else replace(row, kernels=_kernels(sides[job], until))


def _kernels(side: Side, until: float) -> tuple[Kernel, ...]:
    """Where its time goes; nothing where the profiler fails."""
    with contextlib.suppress(SideError):
        return side.profile(max(1.0, min(until - time.monotonic(), PROFILE_SECONDS))).kernels
    return ()


def _missing(group: Group, job: Job, why: str) -> Row:
    return Row(group.part, group.title, job.side, job.unit, note=f"{NOT_MEASURED}: {why}")


def _row(group: Group, job: Job, reports: list[Report | None], first: list[Report | None] | None) -> Row:
    found = [report for report in reports if report]
    pairs = [(a, b) for a, b in zip(reports, first or [], strict=False) if a and b]
    compared = [(a.figure, b.figure) for a, b in pairs if group.part in ("train", "decode")]
    figure = Quartiles.of([report.figure for report in found])
    peaks = [report.peak_gib for report in found if report.peak_gib is not None]
    return Row(
        part=group.part,
        group=group.title,
        side=job.side,
        unit=job.unit,
        figure=figure,
        ratio=ratios([ours for ours, _ in compared], [theirs for _, theirs in compared]) if compared else None,
        peak_gib=max(peaks, default=None),
        tflops=_tflops(job, figure.median),
        tf32=found[-1].tf32,
        note=", ".join(filter(None, [found[-1].note, _agreement(job, pairs)])),
    )


def _tflops(job: Job, figure: float) -> float | None:
    if job.kind != "train" or job.model is None:
        return None
    tokens = figure * (job.rows * job.length if job.unit in ("steps/s", SEED_STEPS) else 1)
    return tokens * flops_per_token(job.model, job.length) / 1e12


def _agreement(job: Job, pairs: Sequence[tuple[Report, Report]]) -> str:
    """Whether a side did what the first one of its group did."""
    if pairs and job.kind == "decode" and job.how != "sampled":
        agreeing = min(common_start(a.ids, b.ids) for a, b in pairs)
        return f"{agreeing} of {len(pairs[0][0].ids)} ids before the first that differs"
    if pairs and job.kind == "train" and job.unit == "tokens/s":
        apart = max(abs(a - b) for one, other in pairs for a, b in zip(one.losses, other.losses, strict=True))
        same = apart <= 2 * TOLERANCE_NATS[job.step.dtype]
        return f"{'losses within' if same else 'NOT THE SAME MODEL: losses apart by'} {apart:.1e} nats"
    return ""
