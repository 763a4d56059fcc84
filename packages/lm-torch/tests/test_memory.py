"""The estimate of `lm_core.model.memory` is a lower bound of what torch keeps, and not a hollow one."""

from typing import Any

import pytest
import torch

from lm_core.config import StepConfig
from lm_core.model.memory import training_memory
from lm_core.testing import ADAMW, MODELS, rough_arrays
from lm_torch.step import load_weights, make_model

ROWS, LENGTH = 4, 24
STEPS = {
    "fused": StepConfig(),
    "scratch": StepConfig(kernels="scratch"),
    "bfloat16": StepConfig(dtype="bfloat16"),
    "checkpointed": StepConfig(gradient_checkpointing=True),
    "checkpointed every second": StepConfig(gradient_checkpointing=True, gradient_checkpointing_every=2),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_at_least_the_estimate(name: str, how: str, dropout: float) -> None:
    config, step = MODELS[name].model_copy(update={"dropout": dropout, "vocab_size": 500}), STEPS[how]
    model = make_model(config, step, torch.device("cpu"))
    load_weights(model, rough_arrays(config))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(ids, ids, torch.tensor(1) if dropout else None)
    needed = training_memory(config, ADAMW, step, ROWS, LENGTH)
    measured = sum(kept.values())
    if how.startswith("checkpointed"):  # one block more is made in the backward pass
        measured += training_memory(config, ADAMW, StepConfig(), ROWS, LENGTH).activations
    assert loss.requires_grad
    assert needed.activations <= measured <= 20 * needed.activations
