"""Conformance suite of the backends, as pytest classes. A backend's suite subclasses them and names the backend:

    class TestTorch(BackendConformance):
        backend_name = "torch"

The oracle is the float64 reference. Nothing here knows a framework.
"""

from lm_core.testing.batches import BatchConformance
from lm_core.testing.decoders import DecoderConformance
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
from lm_core.testing.steps import StepConformance


class BackendConformance(StepConformance, BatchConformance, DecoderConformance):
    """A backend against the float64 reference."""


__all__ = [
    "ADAMW",
    "KBETA",
    "MODELS",
    "OPTIMIZERS",
    "BackendConformance",
    "packed_batch",
    "rough_arrays",
    "some_batches",
    "without_key_biases",
]
