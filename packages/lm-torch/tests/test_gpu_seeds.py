"""Seeds that are trained together on a CUDA device: each is what it is alone, compiled and replayed too."""

from typing import Any

import numpy as np
import pytest

from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows
from lm_core.model.init import initial_arrays
from lm_core.testing import ADAMW, KBETA, MODELS, OPTIMIZERS, some_batches, without_key_biases
from lm_torch.backend import TorchBackend
from lm_torch.seeds import SeedTrainer
from lm_torch.step import TorchTrainer

pytestmark = pytest.mark.gpu

SEEDS = (3, 11, 4)
STEPS = 20


def curves(model: ModelConfig, optimizer: OptimizerConfig, **step: Any) -> tuple[SeedTrainer, list[TorchTrainer], Any]:
    """Seeds together and alone after some steps, and their losses, [2, steps, seeds]."""
    config = StepConfig(device="gpu", **step)
    clipped = optimizer.model_copy(update={"grad_clip": 1.0})
    weights = [initial_arrays(model, seed) for seed in SEEDS]
    one = TorchBackend().build_seeds(model, clipped, config, weights, SEEDS)
    each = [TorchBackend().build(model, clipped, config, w, seed) for w, seed in zip(weights, SEEDS, strict=True)]
    tokens, ours, theirs = some_batches(model).tokens, [], []
    for number in range(1, STEPS + 1):
        given = [RandomWindows(tokens, 4, LengthRule(16, 16), seed).batch(number) for seed in SEEDS]
        ours.append([metrics["loss_nats"] for metrics in one.step(given, 3e-3)])
        theirs.append([t.step(batch, 3e-3)["loss_nats"] for t, batch in zip(each, given, strict=True)])
    assert isinstance(one, SeedTrainer)
    assert all(isinstance(trainer, TorchTrainer) for trainer in each)
    return one, each, np.array([[[float(loss) for loss in row] for row in rows] for rows in (ours, theirs)])


@pytest.mark.parametrize("graph", ["off", "on"])
@pytest.mark.parametrize("name", ["adamw", "kbeta-everything", "muon"])
def test_each_seed_is_what_it_is_alone(name: str, graph: str) -> None:
    config = MODELS["testbed-d"].model_copy(update={"dropout": 0.1})
    one, each, losses = curves(config, OPTIMIZERS[name], cuda_graph=graph, grad_accum_steps=2)
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)
    assert bool(one.graphs.recordings) == (graph == "on")
    for k, trainer in enumerate(each):
        expected = without_key_biases(trainer.weights())
        for key, array in without_key_biases(one.weights(k)).items():
            np.testing.assert_allclose(array, expected[key], atol=3e-3, err_msg=key)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's advice
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("optimizer", [ADAMW, KBETA], ids=["adamw", "kbeta"])
def test_compiled_seeds_are_each_what_it_is_alone(optimizer: OptimizerConfig, dtype: str, bound: float) -> None:
    config = MODELS["llama"].model_copy(update={"dropout": 0.1})
    one, _, losses = curves(config, optimizer, dtype=dtype, compile=True)
    assert one.graphs.recordings
    np.testing.assert_allclose(losses[0], losses[1], atol=bound)
