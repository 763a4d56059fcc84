"""The estimate of `lm_core.model.memory` is a lower bound of what MLX allocates."""

import gc

import pytest

from lm_core.backend import load_backend
from lm_core.config import StepConfig
from lm_core.model.memory import training_memory
from lm_core.testing import ADAMW, MODELS, rough_arrays, some_batches

mx = pytest.importorskip("mlx.core")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_peak_of_a_step_is_at_least_the_estimate(name: str, compiled: bool) -> None:
    config, step = MODELS[name], StepConfig(device="cpu", compile=compiled)
    gc.collect()  # a trainer of an earlier test is a cycle; freed later, it would count against the peak
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    trainer = load_backend("mlx").build(config, ADAMW, step, rough_arrays(config), 0)
    batches = some_batches(config, rows=16, length=24)
    for number in (1, 2):
        float(trainer.step(batches.batch(number), 1e-3)["loss_nats"])
    needed = training_memory(config, ADAMW, step, 16, 24)
    assert needed.total <= mx.get_peak_memory() - before
