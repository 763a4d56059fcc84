"""Who decodes, behind one signature: prompts -> ids, and the time that each took."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Literal, Protocol

from lm_bench.cases import SEED
from lm_core.backend import NumpyArrays, load_backend
from lm_core.config import ModelConfig, SamplingConfig, StepConfig
from lm_core.sampling import Generation

SideName = Literal["ours", "huggingface"]
GREEDY = SamplingConfig(temperature=0)


@dataclass(frozen=True)
class Decoded:
    """Ids of one side, and their times."""

    ids: list[list[int]]
    """Of each row, without the prompt."""
    prefill: float
    """Seconds until the prompts were read (theirs: and the first ids chosen, and `generate` had prepared itself)."""
    latencies: list[float]
    """Seconds from one id to the next, of all rows at once."""


class Side(Protocol):
    """One model, ready to decode."""

    def decode(self, prompts: Sequence[Sequence[int]], count: int) -> Decoded:
        """`count` ids after each of the prompts."""


class Ours:
    """A decoder of the backend, driven by `lm_core.sampling.Generation`, as every program of ours drives it."""

    def __init__(
        self,
        model: ModelConfig,
        step: StepConfig,
        weights: NumpyArrays,
        rows: int,
        wait: Callable[[], None],
        sampling: SamplingConfig = GREEDY,
    ):
        self.decoder = load_backend("torch").decoder(model, step, weights, rows)
        self.seq_len, self.wait, self.sampling = model.seq_len, wait, sampling

    def decode(self, prompts: Sequence[Sequence[int]], count: int) -> Decoded:
        """See `Side`."""
        times = [time.perf_counter()]
        generation = Generation(self.decoder, prompts, self.seq_len, SEED, self.sampling)
        for _ in range(count):
            self.wait()
            times.append(time.perf_counter())
            generation.step()
        self.wait()
        times.append(time.perf_counter())
        prefill, *latencies = (later - earlier for earlier, later in pairwise(times))
        ids = [row[len(prompt) :] for row, prompt in zip(generation.ids, prompts, strict=True)]
        return Decoded(ids, prefill, latencies)


class Theirs:
    """Hugging Face's `generate`."""

    def __init__(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays):
        from lm_bench.peers.huggingface import Generator

        self.generator = Generator(model, step, weights)

    def decode(self, prompts: Sequence[Sequence[int]], count: int) -> Decoded:
        """See `Side`."""
        ids, times = self.generator.generate(prompts, count)
        return Decoded(ids, times[0], [later - earlier for earlier, later in pairwise(times)])


def side_names() -> tuple[list[SideName], list[str]]:
    """The sides, ours first, and what is not installed."""
    if find_spec("transformers"):
        return ["ours", "huggingface"], []
    return ["ours"], ["huggingface"]


def make_side(
    name: SideName, model: ModelConfig, step: StepConfig, weights: NumpyArrays, rows: int, wait: Callable[[], None]
) -> Side:
    """One side with `weights`."""
    return Ours(model, step, weights, rows, wait) if name == "ours" else Theirs(model, step, weights)
