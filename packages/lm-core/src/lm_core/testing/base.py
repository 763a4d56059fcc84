"""How a conformance class gets its trainer."""

from typing import ClassVar

from lm_core.backend import Scorer, Trainer, load_backend
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.model.init import Arrays
from lm_core.testing.models import ADAMW, rough_arrays


class Conformance:
    """A backend against the float64 reference."""

    backend_name: ClassVar[str]
    compiles_fast: ClassVar[bool] = False
    """Whether compiling takes no time, so that more is tested compiled."""

    def build(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig = ADAMW,
        step: StepConfig | None = None,
        weights: Arrays | None = None,
    ) -> Trainer:
        """A trainer on the CPU, by default from rough weights."""
        config = (step or StepConfig()).model_copy(update={"device": "cpu"})
        return load_backend(self.backend_name).build(model, optimizer, config, weights or rough_arrays(model), 0)

    def scorer(self, model: ModelConfig, step: StepConfig | None = None, weights: Arrays | None = None) -> Scorer:
        """A scorer on the CPU, by default of rough weights."""
        config = (step or StepConfig()).model_copy(update={"device": "cpu"})
        return load_backend(self.backend_name).scorer(model, config, weights or rough_arrays(model))
