"""The contract between the run loop and a framework, cut at the training step.

Above this line there is numpy, below it one framework. Scalars that `step` and `evaluate` return are lazy: they stay on
the device until somebody calls `float` on them, so nothing waits for the device but a due log, evaluation or save.
"""

import importlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.sampling import Decoder
from lm_core.world import World

Metrics = Mapping[str, Any]
"""Lazy metrics of a step: each waits for the device only when it is read.

`loss_nats`: mean over all targets of weight x nats (see `Batch`). `grad_norm`: of all gradients together, before
clipping. Both are read by `float`.
`grad_norms`: one for each parameter, in the order of the table, before clipping; read by `.tolist()`.
"""
NumpyArrays = Mapping[str, NDArray[Any]]
Snapshot = Callable[[], tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]
"""Reads what was snapped: weights and optimizer state, as `Scorer.weights` and `Trainer.optimizer_state` name them."""


@dataclass(frozen=True)
class Marks:
    """What the metrics of a model are made of, for each target, each [B, T]."""

    nats: NDArray[np.float32]
    """As `Scorer.score` gives them."""
    rank: NDArray[np.int32]
    """How many other ids have a logit that is not below the target's: 0 where it alone is the likeliest.

    A tie counts against the target, so that a model which gives all ids one logit is right nowhere; and so does a logit
    that is not a number.
    """
    confidence: NDArray[np.float32]
    """Probability of the likeliest id."""

    @classmethod
    def of(cls, marks: NDArray[np.floating[Any]]) -> "Marks":
        """Those that a backend gives in one array [3, B, T], in which ranks are exact up to 2^24."""
        nats, rank, confidence = marks
        return cls(nats.astype(np.float32), rank.astype(np.int32), confidence.astype(np.float32))


@dataclass(frozen=True)
class AttentionTotals:
    """Of the attention weights a(t, s) of each head, added up over the rows and queries of a batch [B, T]."""

    distance: NDArray[np.float64]
    """Attention to the token d before: sum of a(t, t - d), [N, d = 0 to T - 1]."""
    entropy: NDArray[np.float64]
    """Sum of -sum a ln a over what each query attends to, in nats, [N]."""
    first: NDArray[np.float64]
    """Attention to the first token of the row, of the other queries, [N]."""


class TappedLayer(Protocol):
    """One block of a model that has read a batch [B, T], without dropout; see `Scorer.tap`."""

    def attention(self, heads: slice = slice(None)) -> NDArray[np.float32]:
        """How much of each position some heads take for each position, [B, heads, T, T].

        A row is of one query, and sums to 1. Made when asked for: of as many heads as there is memory for.
        """

    def attention_totals(self) -> AttentionTotals:
        """Of the weights of every head, made on the device some queries at a time, against the keys before them alone:
        it holds a few MiB of weights, however many there are.
        """

    def residual(self) -> NDArray[np.float32]:
        """The residual stream after the block, [B, T, D]."""

    def lens(self, targets: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Nats of each target, and the most likely id at each position, [B, T] each, as if this block were the last.

        The logit lens (nostalgebraist 2020): the final norm and the head, applied to `residual`. Of the last block
        they are the model's own. Only the logits of some tokens are held at a time.
        """


class Scorer(Protocol):
    """A model on one device that is read and not trained: nothing but weights and the activations of a batch.

    Evaluation, studies and exports need this much; a `Trainer` is one too, over the model that it trains.
    """

    def evaluate(self, batch: Batch) -> SupportsFloat:
        """Mean over all targets of weight x nats, without dropout: the weighted mean of `score` but for rounding."""

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Nats of each target, [B, T], without dropout and without the batch's weights, within its documents.

        With `kernels = "fused"` only the logits of some tokens are held at a time.
        """

    def marks(self, batch: Batch) -> Marks:
        """`score`, with the rank of each target and the probability of the likeliest id; under the same conditions."""

    def logits(self, inputs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[B, T] ids -> [B, T, V], without dropout."""

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of every parameter, under the table's names."""

    def load(self, weights: NumpyArrays) -> None:
        """Replace the parameters."""

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """Root mean square of the residual stream after each block ("blocks.0", ...), without dropout."""

    def tap(self, batch: Batch) -> Iterator[TappedLayer]:
        """Every block in turn, each computed when it is asked for: what a study of the model reads.

        The weights must not change before the last one.
        """

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> Decoder:
        """A fresh decoder of `rows` texts over the current weights; only ids below `vocab_size` are ever drawn."""


class Trainer(Scorer, Protocol):
    """A model and its optimizer on one device."""

    def choices(self) -> dict[str, str]:
        """What this machine decided and no config says, but the rounding of results depends on; in words, by name.

        A checkpoint records it. On a machine where it is measured which kernels are fast, a second measurement might
        decide otherwise.
        """

    def repeat(self, choices: Mapping[str, str]) -> None:
        """Compute from now on as the trainer did that made these `choices`, as far as this machine can."""

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step; see `Metrics` for what it returns."""

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Statistics of the optimizer in the last step, by bucket: K-beta's `sunspike` and `beta2`, none for AdamW."""

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the weights are their average, to be evaluated and sampled with; not to be trained.

        Without `optimizer.average` they are what they are.
        """

    def forward_backward(self, batch: Batch) -> SupportsFloat:
        """Loss of the next step, lazy, with its gradients left on the device: what a benchmark times."""

    def gradients(self, batch: Batch) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss and unclipped gradients of the next step, without taking it."""

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """A copy of the optimizer's state, under the names of `lm_core.optim`."""

    def snapshot(self) -> Snapshot:
        """Snapshot of what a checkpoint would hold now, to read later from another thread, while training continues.

        What is read must not be written to, and is valid until the next snapshot: its memory may be used again. The
        first one may have to get that memory from the system, which takes several times as long as the copy.
        """

    def load(self, weights: NumpyArrays, optimizer_state: NumpyArrays | None = None) -> None:
        """Replace the parameters and, if given, the optimizer's state."""


class SeedTrainer(Protocol):
    """K models of one shape with their optimizers, trained together: the seeds of one arm of a study.

    Seed k has the curve that it would have alone but for rounding, and what is read out of it is what a `Trainer` of
    that seed gives and loads. `which` counts the seeds from 0. The batches of a step have one shape.
    """

    def step(self, batches: Sequence[Batch], lr: float) -> list[Metrics]:
        """One optimizer step of each seed on its batch."""

    def evaluate(self, batches: Sequence[Batch]) -> Sequence[SupportsFloat]:
        """`Scorer.evaluate` of each seed on its batch."""

    def averaged(self) -> AbstractContextManager[None]:
        """`Trainer.averaged` of all seeds."""

    def diagnostics(self, which: int) -> dict[str, dict[str, float]]:
        """`Trainer.diagnostics` of a seed."""

    def weights(self, which: int) -> dict[str, NDArray[np.float32]]:
        """`Scorer.weights` of a seed."""

    def optimizer_state(self, which: int) -> dict[str, NDArray[Any]]:
        """`Trainer.optimizer_state` of a seed."""

    def load(self, weights: Sequence[NumpyArrays], optimizer_states: Sequence[NumpyArrays] | None = None) -> None:
        """`Trainer.load` of every seed, all of them at one step."""


def check_together(step: StepConfig) -> None:
    """Refuse what no `SeedTrainer` does.

    Raises:
        UserError: with what to change.
    """
    advice = "several seeds are trained as one model"
    if step.varying_length:
        raise UserError(f"{advice} only on windows of one length: fix it, or train them in turn")
    if step.kernels != "fused":
        raise UserError(f'{advice} by fused kernels only: set kernels = "fused"')
    if step.dtype == "float8":
        raise UserError(f"{advice} in bfloat16 or float32, not in float8")


class Backend(Protocol):
    """One framework."""

    name: str

    def world(self) -> World:
        """The ranks that the framework's launcher has started, joined; the trainers of this process are theirs.

        A trainer of several ranks is given a rank's rows of a batch (`lm_core.data.batches.rank_batch`), and its
        losses, norms, weights and optimizer state are those of all. Every rank has to call what another one calls.

        Raises:
            UserError: when they do not find each other.
        """

    def build(
        self, model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, weights: NumpyArrays, seed: int
    ) -> Trainer:
        """A trainer that starts from `weights`; `seed` keys the dropout masks."""

    def scorer(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays) -> Scorer:
        """A model of `weights` to be read; of `step`, what is about training has no effect."""

    def build_seeds(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        step: StepConfig,
        weights: Sequence[NumpyArrays],
        seeds: Sequence[int],
    ) -> SeedTrainer:
        """A trainer of all seeds together, each from its own of the `weights`.

        Raises:
            UserError: where the backend trains one at a time.
        """

    def decoder(
        self, model: ModelConfig, step: StepConfig, weights: NumpyArrays, rows: int = 1, vocab_size: int | None = None
    ) -> Decoder:
        """A decoder without a trainer, see `Scorer.decoder`; `step.compile` compiles it where that can be done."""

    def peak_flops(self, step: StepConfig) -> float | None:
        """Dense matrix operations per second that the maker states for the device and type; None if not known."""

    def memory(self, step: StepConfig) -> int | None:
        """Bytes of memory that the device has for this process at most; None if not known."""

    def peak_memory(self, step: StepConfig) -> int:
        """The most bytes of the device's memory that this process has had."""

    def describe(self, step: StepConfig) -> str:
        """One line on the device, the version and the threads, for the log."""


def default_backend() -> str:
    """MLX on Apple silicon, torch elsewhere."""
    return "mlx" if sys.platform == "darwin" and platform.machine() == "arm64" else "torch"


def _known() -> Iterator[tuple[str, str]]:
    for entry in entry_points(group="lm.backends"):
        yield entry.name, entry.value


def load_backend(name: str = "auto") -> Backend:
    """Import a backend by the name under which it is installed ("torch", "mlx"), or the platform's default ("auto").

    Raises:
        UserError: when it is not installed, saying which package to install.
    """
    name = default_backend() if name == "auto" else name
    target = dict(_known()).get(name)
    if target is None:
        raise UserError(f"backend {name!r} is not installed: pip install ./packages/lm-core ./packages/lm-{name}")
    module, _, attribute = target.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        raise UserError(f"backend {name!r} cannot be imported ({error}); reinstall the package lm-{name}") from None
    return backend
