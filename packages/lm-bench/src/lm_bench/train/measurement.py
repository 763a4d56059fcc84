"""The measurement of `lm-bench train`: which parts, of which sides, on which cases."""

import gc
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

from lm_bench.cases import Case
from lm_bench.flags import TrainFlags
from lm_bench.train import convergence, loop, memory, speed
from lm_bench.train.convergence import Convergence
from lm_bench.train.loop import LoopCost
from lm_bench.train.memory import PeakMemory, TrainMemoryJob
from lm_bench.train.sides import SideName, make_side, our_trainer, side_names, step_config
from lm_bench.train.speed import Proof, Speed, SpeedPart
from lm_bench.train.workload import block_steps, is_large, workload
from lm_core.backend import load_backend


@dataclass
class Results:
    """All that was measured."""

    device: str
    """ "cpu" or "cuda"."""
    missing: list[str]
    """Peers that were asked for and are not installed."""
    peak_flops: float = 0.0
    """Operations per second of a matrix product on this machine; 0 where it was not measured."""
    speed: list[Speed] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    memory: list[PeakMemory] = field(default_factory=list)
    loop: list[LoopCost] = field(default_factory=list)
    convergence: list[Convergence] = field(default_factory=list)


def measure(flags: TrainFlags, say: Callable[[str], None]) -> Results:
    """Measure what the flags ask for.

    Raises:
        UserError: when a window is too long for a model, the text cannot be read, or there is no such device.
        NotSameModelError: when a peer does not train the same model.
    """
    device, wait, peak_flops = _device(flags)
    cases = [workload(name, device, flags.batch_size, flags.seq_len) for name in flags.cases]
    text = convergence.read(flags.text, device) if "convergence" in flags.parts else None
    names, missing = side_names(flags.peers, flags.dtype, flags.backend)
    results = Results(device, missing)
    if set(get_args(SpeedPart)) & set(flags.parts):
        results.peak_flops = peak_flops()
    for case in cases:
        _measure_speed(flags, case, names, results, wait, say)
        if "memory" in flags.parts:
            say(f"memory: {case.name} ...")
            results.memory += [_memory(flags, case.name, name, device) for name in names]
        if "loop" in flags.parts and fits_loop(case, device):
            say(f"loop: {case.name} ...")
            trainer = our_trainer(case, step_config(flags.dtype, flags.compile, flags.device), flags.backend)
            results.loop += loop.measure(case, trainer, flags.rounds, flags.loop_steps, wait)
    if text:
        results.convergence = convergence.measure(text, names, flags, say)
    return results


def _device(flags: TrainFlags) -> tuple[str, Callable[[], None], Callable[[], float]]:
    """ "cpu" or "cuda", what waits until it has done all that was asked of it, and what measures its peak.

    MLX's memory is the host's, wherever it computes; the peak is torch's.
    """
    if flags.backend == "mlx":
        load_backend("mlx")
        return "cpu", importlib.import_module("mlx.core").synchronize, lambda: 0.0
    from lm_bench import peak  # torch is imported when something is measured

    device = peak.device_type(flags.device)
    return device, partial(peak.wait, device), partial(peak.matrix_flops, device)


def fits_loop(case: Case, device: str) -> bool:
    """Whether hundreds of steps, each round, take minutes and not hours."""
    return device == "cuda" or not is_large(case.name)


def _measure_speed(
    flags: TrainFlags,
    case: Case,
    names: Sequence[SideName],
    results: Results,
    wait: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    parts = [part for part in get_args(SpeedPart) if part in flags.parts]
    if not parts:
        return
    say(f"building: {case.name} ...")
    sides = {
        name: make_side(name.who, case, step_config(name.dtype, flags.compile, flags.device), flags.backend)
        for name in names
    }
    steps = flags.steps or block_steps(case.name, results.device)
    for part in parts:  # forward_backward comes first: it changes no weights
        say(f"{part}: {case.name} ...")
        speeds, proofs = speed.measure(case, part, sides, flags.rounds, steps, wait, results.peak_flops)
        results.speed += speeds
        results.proofs += proofs
    sides.clear()
    gc.collect()


def _memory(flags: TrainFlags, case: str, name: SideName, device: str) -> PeakMemory:
    job = TrainMemoryJob(
        who=name.who,
        dtype=name.dtype,
        case=case,
        device="cuda" if device == "cuda" else "cpu",
        compile=flags.compile,
        batch_size=flags.batch_size,
        seq_len=flags.seq_len,
        backend=flags.backend,
    )
    return PeakMemory(case, str(name), memory.measure(job))
