"""The two sides of a comparison, from the same initial weights: our training step, and the bare loop's."""

from typing import Literal, SupportsFloat

from lm_bench.cases import SEED, Case
from lm_bench.peers import Step, load_peer
from lm_core.backend import load_backend
from lm_core.config import AdamWConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.init import initial_arrays

BackendName = Literal["torch", "mlx"]
SideName = Literal["ours", "bare"]


def import_framework(backend: BackendName, side: SideName) -> None:
    """Import what `side` stands on, and no more."""
    # MLX's bare loop needs the backend too: importing it is what gives MLX a fast BLAS on Linux.
    if side == "ours" or backend == "mlx":
        load_backend(backend)
    if side == "bare":
        load_peer(backend)


def make_step(backend: BackendName, side: SideName, case: Case, step: StepConfig) -> Step:
    """One side's training step on `case`."""
    import_framework(backend, side)
    weights = initial_arrays(case.model, SEED)
    if side == "bare":
        assert isinstance(case.optimizer, AdamWConfig)
        return load_peer(backend).bare_step(case.model, case.optimizer, step, weights, case.lr)
    trainer = load_backend(backend).build(case.model, case.optimizer, step, weights, SEED)

    def train(batch: Batch) -> SupportsFloat:
        return trainer.step(batch, case.lr)["loss_nats"]

    return train
