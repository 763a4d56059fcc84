"""Who trains, behind one signature: ours, and the peers, from the same initial weights."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol, SupportsFloat, cast

from lm_bench.cases import SEED, Case
from lm_bench.flags import BackendName, TrainPeer
from lm_core.backend import Trainer, load_backend
from lm_core.config import AdamWConfig, Dtype, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.init import initial_arrays

Who = Literal["ours", TrainPeer]
OURS: Who = "ours"
CHECKPOINTING: Who = "checkpointing"
"""Ours, with gradient checkpointing."""
ON_MLX = ("plain", CHECKPOINTING)
"""The peers that there are on MLX."""


class Side(Protocol):
    """One model in training. The losses are lazy: reading one waits for the device."""

    def forward_backward(self, batch: Batch) -> SupportsFloat:
        """The loss; its gradients stay on the device, and no step is taken."""

    def step(self, batch: Batch, lr: float) -> SupportsFloat:
        """The loss before one whole step: forward, backward, clipping, AdamW."""

    def evaluate(self, batch: Batch) -> SupportsFloat:
        """The loss alone."""


@dataclass(frozen=True)
class SideName:
    """Which side, and in which type it computes."""

    who: Who
    dtype: Dtype
    qualified: bool = False
    """Whether the type is said: where one peer runs in two of them."""

    def __str__(self) -> str:
        if not self.qualified:
            return self.who
        return f"{self.who} {'float32' if self.dtype == 'float32' else 'autocast'}"


def side_names(
    peers: tuple[TrainPeer, ...], dtype: Dtype, backend: BackendName = "torch"
) -> tuple[list[SideName], list[str]]:
    """The sides, ours first, and the names of the peers that are not installed, or are not of the backend.

    With bfloat16 every peer comes in float32, as one would write it down, and under autocast, as one would speed it up.
    """
    if backend == "mlx":
        missing = [peer for peer in peers if peer not in ON_MLX]
    else:
        missing = [peer for peer in peers if peer == "huggingface" and not find_spec("transformers")]
    names = [SideName(OURS, dtype)]
    for peer in peers:
        if peer in missing:
            continue
        if dtype == "float32" or peer == CHECKPOINTING:
            names.append(SideName(peer, dtype))
        else:
            names += [SideName(peer, "float32", True), SideName(peer, dtype, True)]
    return names, [str(peer) for peer in missing]


def step_config(dtype: Dtype, compiled: bool, device: Literal["auto", "cpu", "gpu"]) -> StepConfig:
    """How a side executes."""
    return StepConfig(dtype=dtype, compile=compiled, device=device)


class Ours:
    """A trainer of the backend."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def forward_backward(self, batch: Batch) -> SupportsFloat:
        """See `Side`."""
        return self.trainer.forward_backward(batch)

    def step(self, batch: Batch, lr: float) -> SupportsFloat:
        """See `Side`."""
        return self.trainer.step(batch, lr)["loss_nats"]

    def evaluate(self, batch: Batch) -> SupportsFloat:
        """See `Side`."""
        return self.trainer.evaluate(batch)


def our_trainer(case: Case, config: StepConfig, backend: BackendName = "torch") -> Trainer:
    """Our trainer of a case."""
    return load_backend(backend).build(case.model, case.optimizer, config, initial_arrays(case.model, SEED), SEED)


def import_side(who: Who, backend: BackendName = "torch") -> None:
    """Import what the side stands on, and no more."""
    # MLX's plain loop needs the backend too: importing it is what gives MLX a fast BLAS on Linux.
    if who in (OURS, CHECKPOINTING) or backend == "mlx":
        load_backend(backend)
    if who not in (OURS, CHECKPOINTING):
        importlib.import_module(_module(who, backend))


def make_side(who: Who, case: Case, config: StepConfig, backend: BackendName = "torch") -> Side:
    """One side at the start of its training."""
    import_side(who, backend)
    if who in (OURS, CHECKPOINTING):
        again = config.gradient_checkpointing or who == CHECKPOINTING
        return Ours(our_trainer(case, config.model_copy(update={"gradient_checkpointing": again}), backend))
    assert isinstance(case.optimizer, AdamWConfig), "the peers have AdamW"
    weights, module = initial_arrays(case.model, SEED), importlib.import_module(_module(who, backend))
    if who == "huggingface":
        return cast("Side", module.huggingface_loop(case.model, case.optimizer, config, weights))
    fused = who == "plain-fused"
    return cast("Side", module.plain_loop(case.model, case.optimizer, config, weights, fused=fused))


def _module(who: Who, backend: BackendName) -> str:
    return f"lm_bench.peers.{'huggingface' if who == 'huggingface' else f'{backend}_loop'}"
