"""Start-up: a new process that reads GPT-2 and encodes a prompt; and the time of one short text once all is warm."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer.corpus import Corpus
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES
from lm_bench.tokenizer.texts import prefix
from lm_bench.tokenizer.workers import Side, WorkerError, environment, workers

PROMPT_BYTES = 1000
PYTHON = "python alone"


@dataclass(frozen=True)
class Start:
    """One library."""

    library: str
    seconds: Quartiles
    """Of the whole process, Python's own start included."""
    ratio: Quartiles | None
    """Reference / this; below 1 the reference is faster."""
    prompt_ns: Quartiles | None
    """Of `encode("Hello world")`, warm."""
    prompt_ratio: Quartiles | None


def measure(names: Sequence[str], corpus: Corpus, models: Models, rounds: int) -> list[Start]:
    """Time the processes in turns, then the prompts; the first of `names` is the reference.

    Raises:
        WorkerError: when a library fails.
    """
    prompt = prefix(corpus.part.read_bytes(), PROMPT_BYTES).decode()
    programs = {PYTHON: ""} | {name: f"prompt = {prompt!r}\n{LIBRARIES[name].start_code(models)}" for name in names}

    def process(name: str) -> float:
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", programs[name]], capture_output=True, env=environment(1))
        seconds = time.perf_counter() - started
        if done.returncode:
            raise WorkerError(f"{name}: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
        return seconds

    seconds = interleaved(list(programs), rounds, process)
    with workers([Side(name, 1) for name in names], models) as all_workers:
        for worker in all_workers.values():
            worker.ask("warm_up", path=str(corpus.warmup))
        sides = list(all_workers)
        prompts = interleaved(sides, rounds, lambda side: 1e9 * all_workers[side].ask("prompt")["seconds"])
    results = [Start(PYTHON, Quartiles.of(seconds[PYTHON]), None, None, None)]
    for name in names:
        first = name == names[0]
        ns = prompts[Side(name, 1)]
        results.append(
            Start(
                name,
                Quartiles.of(seconds[name]),
                ratios(seconds[name], None if first else seconds[names[0]]),
                Quartiles.of(ns),
                ratios(ns, None if first else prompts[Side(names[0], 1)]),
            )
        )
    return results
