"""Which kinds of products go to oneDNN, measured once on a machine and kept in the user's cache.

    shape of a model --kept on disk?--> kinds
            '------------------ no --> each kind by either library, a tenth of a second --> kinds, kept
                                           '-- on a busy machine --> those by the instruction set, not kept

The answer depends on torch's version, the processor, the instructions that the libraries may use, the threads and the
shape; those are its key. oneDNN must be faster by a margin: torch's own path is never left for a slower one, and what
is about equal gives the same answer every time. A trainer asks once, when it is built, and its checkpoints record the
answer (`lm_core.backend.Trainer.choices`): the bits of a run depend on it, not on what is measured when it is resumed.

There is nothing to measure where torch has no oneDNN, on processors without AVX2 (torch then has other libraries), and
for models so small that their products take microseconds.
"""

import contextlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch

from lm_core.config import ModelConfig
from lm_core.disk.files import make_folder, write_whole
from lm_core.disk.untrusted import read_regular
from lm_torch import onednn
from lm_torch.onednn import KINDS, Kind, Kinds, by_default

SMALLEST_MODEL = 1 << 15
"""D x F from which products are measured."""
MARGIN = 0.93
"""Part of the time of torch's own products that oneDNN may take at most."""
ROWS = 512
"""Tokens of the step that is measured, at most."""
LONGEST = 1 << 28
"""Multiplications of a product that is measured: one that takes a millisecond is, now and then, not interrupted by what
else runs on the machine, and the least of many times is then its own."""
BUDGET_S = 0.04
"""For one kind and shape."""
MOST_PREEMPTED = 5
"""Times that another process interrupts this one for each BUDGET_S of measuring, above which the machine is busy. Then
MKL's product for one row, which takes one thread, looks fast beside oneDNN's, whose threads wait for each other."""
TRIES = 4
"""Times that a product is measured at most, until one is undisturbed: an idle machine is busy now and then, too."""
_LARGEST_FILE = 1 << 20
_UNCACHED = 1 << 24
"""Elements of the matrices that one row is multiplied by in turn, so that they come from memory as in decoding."""
_LIMITS = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"

Timing = tuple[float, float]
"""Seconds by torch's own product, and by oneDNN's."""
Timer = Callable[[Kind, int, int, int], Timing]
"""Kind, rows, in, out -> timing."""


def choose(model: ModelConfig) -> Kinds:
    """The kinds of products of a model that go to oneDNN here; on a busy machine those by the instruction set."""
    capability = torch.backends.cpu.get_cpu_capability()
    kinds = _kept(_key(model), model.d_model, model.ff_dim) if _is_measured(model, capability) else None
    return by_default(capability) if kinds is None else kinds


def _is_measured(model: ModelConfig, capability: str) -> bool:
    return (
        onednn.AVAILABLE
        and capability.startswith(("AVX2", "AVX512"))
        and model.d_model * model.ff_dim >= SMALLEST_MODEL
    )


@lru_cache
def _kept(key: str, d_model: int, d_ff: int) -> Kinds | None:
    """From the disk; else measured, and put there where it can be written; None where it cannot be measured now."""
    path = cache_file()
    kept = read_kept(path)
    known = kept.get(key)
    if isinstance(known, list) and set(known) <= set(KINDS):
        return frozenset(known)
    kinds = measured(d_model, d_ff)
    if path and kinds is not None:
        with contextlib.suppress(OSError):
            make_folder(path.parent)
            write_whole(path, json.dumps(read_kept(path) | {key: sorted(kinds)}, indent=1).encode())
    return kinds


def cache_file() -> Path | None:
    """Where the choices are kept; None for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(root) if root else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        return None
    return folder / "lm-torch" / "products.json"


def read_kept(path: Path | None) -> dict[str, object]:
    """What a file holds; nothing where it is not there or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        kept = json.loads(read_regular(path, _LARGEST_FILE)) if path else None
        if isinstance(kept, dict):
            return kept
    return {}


def _key(model: ModelConfig) -> str:
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    limits = [os.environ.get(name, "") for name in _LIMITS]
    shape = f"{model.d_model}x{model.ff_dim}"
    return " | ".join([torch.__version__, processor(), capability, *limits, f"{threads} threads", shape])


def preempted() -> int:
    """How many times another process took a core from one of this process's threads."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@lru_cache
def processor() -> str:
    """The processor's name, as far as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def timed(kind: Kind, rows: int, n_in: int, n_out: int) -> Timing:
    """The least seconds of a product by either library, interleaved."""
    count = max(1, min(64, _UNCACHED // (n_in * n_out))) if kind == "one row" else 1
    weights = [torch.randn(n_out, n_in) for _ in range(count)]
    x, dy = torch.randn(rows, n_in), torch.randn(rows, n_out)

    def run(weight: torch.Tensor) -> float:
        start = time.perf_counter()
        if kind == "weight gradient":
            onednn.weight_gradient(dy, x)
        elif kind == "input gradient":
            onednn.input_gradient(dy, weight)
        else:
            onednn.forward_product(x, weight)
        return time.perf_counter() - start

    best = [float("inf"), float("inf")]
    end, turn = time.perf_counter() + BUDGET_S, 0
    while turn < 3 or time.perf_counter() < end:
        for which, kinds in enumerate((onednn.NONE, frozenset(KINDS))):
            with onednn.using(kinds):
                seconds = min(map(run, weights))
            if turn:  # the first call makes the kernels
                best[which] = min(best[which], seconds)
        turn += 1
    return best[0], best[1]


@torch.no_grad()
def measured(d_model: int, d_ff: int, timer: Timer = timed) -> Kinds | None:
    """The kinds in which oneDNN takes less time for the matrices of a block: [D, D], [F, D] and [D, F].

    None on a busy machine, whose answer would not be that of an idle one.
    """
    better = set[Kind]()
    for kind in KINDS:
        rows = 1 if kind == "one row" else max(1, min(ROWS, LONGEST // (d_model * d_ff)))
        timings = []
        for shape in ((d_model, d_model), (d_model, d_ff), (d_ff, d_model)):
            timing = _undisturbed(partial(timer, kind, rows, *shape))
            if timing is None:
                return None
            timings.append(timing)
        # As often as a block has them: queries, keys, values and output are of one shape.
        torchs, onednns = (4 * first + second + third for first, second, third in zip(*timings, strict=True))
        if onednns < MARGIN * torchs:
            better.add(kind)
    return frozenset(better)


def _undisturbed(measure: Callable[[], Timing]) -> Timing | None:
    for _ in range(TRIES):
        before, started = preempted(), time.perf_counter()
        timing = measure()
        seconds = time.perf_counter() - started
        if preempted() - before <= MOST_PREEMPTED * max(1.0, seconds / BUDGET_S):
            return timing
    return None


def spelled(kinds: Kinds) -> str:
    """The kinds in words, in one order: "forward, one row", or "none"."""
    return ", ".join(kind for kind in KINDS if kind in kinds) or "none"


def parsed(text: str) -> Kinds | None:
    """The kinds that `spelled` wrote; None for anything else."""
    named = set(text.split(", ")) if text != "none" else set()
    return frozenset(kind for kind in KINDS if kind in named) if named <= set(KINDS) else None
