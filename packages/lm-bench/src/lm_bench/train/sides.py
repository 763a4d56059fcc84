"""Who trains, behind one signature: ours, and the peers, from the same initial weights."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol, SupportsFloat

from lm_bench.cases import SEED, Case
from lm_bench.flags import TrainPeer
from lm_core.backend import Trainer, load_backend
from lm_core.config import AdamWConfig, Dtype, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.init import initial_arrays

Who = Literal["ours", TrainPeer]
OURS: Who = "ours"


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


def side_names(peers: tuple[TrainPeer, ...], dtype: Dtype) -> tuple[list[SideName], list[str]]:
    """The sides, ours first, and the names of the peers that are not installed.

    With bfloat16 every peer comes in float32, as one would write it down, and under autocast, as one would speed it up.
    """
    missing = [peer for peer in peers if peer == "huggingface" and not find_spec("transformers")]
    names = [SideName(OURS, dtype)]
    for peer in peers:
        if peer in missing:
            continue
        if dtype == "float32":
            names.append(SideName(peer, dtype))
        else:
            names += [SideName(peer, "float32", True), SideName(peer, dtype, True)]
    return names, list(missing)


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


def our_trainer(case: Case, config: StepConfig) -> Trainer:
    """Our trainer of a case."""
    return load_backend("torch").build(case.model, case.optimizer, config, initial_arrays(case.model, SEED), SEED)


def import_side(who: Who) -> None:
    """Import what the side stands on, and no more."""
    if who == OURS:
        load_backend("torch")
    elif who == "huggingface":
        import lm_bench.peers.huggingface
    else:
        import lm_bench.peers.torch_loop  # noqa: F401


def make_side(who: Who, case: Case, config: StepConfig) -> Side:
    """One side at the start of its training."""
    if who == OURS:
        return Ours(our_trainer(case, config))
    assert isinstance(case.optimizer, AdamWConfig), "the peers have AdamW"
    weights = initial_arrays(case.model, SEED)
    if who == "huggingface":
        from lm_bench.peers.huggingface import huggingface_loop

        return huggingface_loop(case.model, case.optimizer, config, weights)
    from lm_bench.peers.torch_loop import plain_loop

    return plain_loop(case.model, case.optimizer, config, weights, fused=who == "plain-fused")
