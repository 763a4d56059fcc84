"""Conformance suites of the backends, as pytest classes. A backend's suite subclasses them and names the backend:

    class TestTorch(BackendConformance):
        backend_name = "torch"

`ComponentConformance` is of a backend's operations alone, and asks besides how the framework makes tensors and
gradients (`lm_core.testing.tensors`). The oracle is the float64 reference. Nothing here knows a framework.
"""

from lm_core.testing.attention import AttentionConformance
from lm_core.testing.batches import BatchConformance
from lm_core.testing.decoders import DecoderConformance
from lm_core.testing.losses import LossConformance
from lm_core.testing.models import (
    ADAMW,
    KBETA,
    MODELS,
    OPTIMIZERS,
    packed_batch,
    rough_arrays,
    some_batches,
    without_key_biases,
)
from lm_core.testing.operations import OperationConformance
from lm_core.testing.scorers import ScorerConformance
from lm_core.testing.steps import StepConformance
from lm_core.testing.taps import TapConformance


class BackendConformance(StepConformance, BatchConformance, DecoderConformance, ScorerConformance, TapConformance):
    """A backend against the float64 reference."""


class ComponentConformance(OperationConformance, AttentionConformance, LossConformance):
    """Each operation of a backend alone, values and gradients: against the framework's own and the reference."""


__all__ = [
    "ADAMW",
    "KBETA",
    "MODELS",
    "OPTIMIZERS",
    "BackendConformance",
    "ComponentConformance",
    "packed_batch",
    "rough_arrays",
    "some_batches",
    "without_key_biases",
]
