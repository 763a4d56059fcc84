"""The backend and the trainer of one run among several that are trained together (`together`)."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, SupportsFloat, cast

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import Backend, Metrics, NumpyArrays, Scorer, Snapshot, Trainer, check_together
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.run.interrupts import Interrupts
from lm_core.run.plan import Plan, SampledBatches
from lm_core.run.together import Build, Evaluation, Pause, Place, Step, current
from lm_core.sampling import Decoder

_CHOICE = "seeds as one model"


def shared(
    plan: Plan, backend: Backend, interrupts: Interrupts | None
) -> tuple[Backend, AbstractContextManager[Interrupts] | None]:
    """The backend and the interrupts of the run that calls this: its own, or where it is one of several, its share.

    Raises:
        UserError: where it is one of several and samples its batches.
    """
    place = current()
    if place is None:
        return backend, interrupts
    if isinstance(plan.batches, SampledBatches):
        raise UserError("several seeds are trained as one model on text, not on what each samples: train them in turn")
    return cast("Backend", SharedBackend(backend, place)), _interrupts(place)


@contextmanager
def _interrupts(place: Place) -> Iterator[Interrupts]:
    """In place of a session's own, which only the main thread can have."""
    place.wait(Pause())
    yield cast("Interrupts", place.group.asked)
    place.wait(Pause())


class SharedBackend:
    """What a session asks of a `Backend`, for one of K runs: its share of the device."""

    def __init__(self, backend: Backend, place: Place):
        self.name, self.backend, self.place = backend.name, backend, place
        self.runs = len(place.group.places)

    def build(
        self, model: ModelConfig, optimizer: OptimizerConfig, step: StepConfig, weights: NumpyArrays, seed: int
    ) -> Trainer:
        """The run's part of the one trainer, when every run has asked for it.

        Raises:
            UserError: where runs cannot be trained together.
        """
        check_together(step)
        self.place.wait(Build(self.backend, model, optimizer, step, weights, seed))
        return cast("Trainer", SharedTrainer(self.backend, self.place, model, step))

    def describe(self, step: StepConfig) -> str:
        """See `Backend.describe`."""
        return self.backend.describe(step)

    def memory(self, step: StepConfig) -> int | None:
        """A run's share of the device's."""
        memory = self.backend.memory(step)
        return None if memory is None else memory // self.runs

    def peak_memory(self, step: StepConfig) -> int:
        """A run's share of what all have had."""
        return self.backend.peak_memory(step) // self.runs

    def peak_flops(self, step: StepConfig) -> float | None:
        """A run's share of the device's."""
        peak = self.backend.peak_flops(step)
        return None if peak is None else peak / self.runs


class SharedTrainer:
    """What a session asks of a `Trainer`, for one of K runs."""

    def __init__(self, backend: Backend, place: Place, model: ModelConfig, step: StepConfig):
        self.backend, self.place, self.model, self.config = backend, place, model, step
        self.is_averaged = False

    def choices(self) -> dict[str, str]:
        """That it is one of so many, by which a batch of products may be rounded in another way."""
        return {_CHOICE: str(len(self.place.group.places))}

    def repeat(self, choices: Mapping[str, str]) -> None:
        """Nothing: how many there are is not for one of them to change."""

    def step(self, batch: Batch, lr: float) -> Metrics:
        """See `Trainer.step`."""
        metrics: Metrics = self.place.wait(Step(batch, lr))
        return metrics

    def evaluate(self, batch: Batch) -> SupportsFloat:
        """See `Scorer.evaluate`."""
        loss: SupportsFloat = self.place.wait(Evaluation(batch, self.is_averaged))
        return loss

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """See `Trainer.diagnostics`."""
        return self.place.group.trainer.diagnostics(self.place.number)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """See `Trainer.averaged`; the weights of the other runs stay what they are."""
        self.is_averaged = True
        try:
            yield
        finally:
            self.is_averaged = False

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """See `Scorer.weights`."""
        if self.place.loaded:
            weights, state = self.place.loaded
            return {n: state.get(f"average.{n}", w) if self.is_averaged else w for n, w in weights.items()}
        trainer = self.place.group.trainer
        if not self.is_averaged:
            return trainer.weights(self.place.number)
        with trainer.averaged():
            return trainer.weights(self.place.number)

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """See `Trainer.optimizer_state`."""
        loaded = self.place.loaded
        return dict(loaded[1]) if loaded else self.place.group.trainer.optimizer_state(self.place.number)

    def snapshot(self) -> Snapshot:
        """See `Trainer.snapshot`; it is read here, and not later."""
        state = self.weights(), self.optimizer_state()
        return lambda: state

    def load(self, weights: NumpyArrays, optimizer_state: NumpyArrays) -> None:
        """See `Trainer.load`; the model gets it when the other runs have come to its step."""
        self.place.loaded = weights, optimizer_state
        self.place.taken = int(optimizer_state["step"])

    def activation_norms(self, batch: Batch) -> dict[str, float]:
        """See `Scorer.activation_norms`."""
        return self._alone().activation_norms(batch)

    def decoder(self, rows: int = 1, vocab_size: int | None = None) -> Decoder:
        """See `Scorer.decoder`."""
        return self._alone().decoder(rows, vocab_size)

    def _alone(self) -> Scorer:
        """The run's model by itself, to be read."""
        return self.backend.scorer(self.model, self.config, self.weights())
