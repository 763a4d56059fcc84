"""Seeds that are trained together are each what it is alone: curve, weights, optimizer state, evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lm_core.backend import load_backend
from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows
from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.testing import ADAMW, KBETA, MODELS, OPTIMIZERS, some_batches, without_key_biases
from lm_torch import fused
from lm_torch.seeds import SeedTrainer
from lm_torch.step import TorchTrainer

CPU = torch.device("cpu")
SEEDS = (3, 11, 4)
STEPS = 20
DROPPING = MODELS["testbed-d"].model_copy(update={"dropout": 0.1})


def clipped(name: str) -> OptimizerConfig:
    """At a norm that cuts some seeds' gradients and not others'."""
    return OPTIMIZERS[name].model_copy(update={"grad_clip": 1.0})


def together(
    model: ModelConfig, optimizer: OptimizerConfig = ADAMW, seeds: Sequence[int] = SEEDS, **step: Any
) -> SeedTrainer:
    weights = [initial_arrays(model, seed) for seed in seeds]
    return SeedTrainer(model, optimizer, StepConfig(device="cpu", **step), weights, seeds, CPU)


def alone(model: ModelConfig, optimizer: OptimizerConfig = ADAMW, **step: Any) -> list[TorchTrainer]:
    config = StepConfig(device="cpu", **step)
    return [TorchTrainer(model, optimizer, config, initial_arrays(model, seed), seed, CPU) for seed in SEEDS]


def batches(model: ModelConfig, step: int, length: int = 16) -> list[Batch]:
    """Those of each seed."""
    tokens = some_batches(model).tokens
    return [RandomWindows(tokens, 4, LengthRule(length, length), seed).batch(step) for seed in SEEDS]


def losses(one: SeedTrainer, each: list[TorchTrainer], first: int, last: int) -> tuple[list[Any], list[Any]]:
    """Of the same steps, together and alone."""
    model = one.model.config
    ours, theirs = [], []
    for step in range(first, last + 1):
        given = batches(model, step)
        ours.append([float(m["loss_nats"]) for m in one.step(given, 3e-3)])
        theirs.append([float(t.step(batch, 3e-3)["loss_nats"]) for t, batch in zip(each, given, strict=True)])
    return ours, theirs


@pytest.mark.parametrize(
    ("model", "optimizer", "step"),
    [
        ("testbed-d", "kbeta", {"cuda_graph": "on"}),
        ("testbed-d", "adamw-average", {"grad_accum_steps": 2}),
        ("testbed-d", "adamw-uncorrected", {"gradient_checkpointing": True}),
        ("llama", "muon", {}),
        ("gpt2", "kbeta-everything", {"grad_accum_steps": 2, "cuda_graph": "on"}),
    ],
)
def test_each_seed_is_what_it_is_alone(model: str, optimizer: str, step: dict[str, Any]) -> None:
    """Dropout and clipping on; losses, evaluation, weights, and the state that a checkpoint would hold."""
    config = MODELS[model].model_copy(update={"dropout": 0.1})
    one, each = together(config, clipped(optimizer), **step), alone(config, clipped(optimizer), **step)
    ours, theirs = losses(one, each, 1, STEPS)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    given = batches(config, 99)
    evaluated = [float(t.evaluate(batch)) for t, batch in zip(each, given, strict=True)]
    assert one.evaluate(given).tolist() == pytest.approx(evaluated, abs=1e-4)
    for k, trainer in enumerate(each):
        expected = without_key_biases(trainer.weights())
        for name, array in without_key_biases(one.weights(k)).items():
            np.testing.assert_allclose(array, expected[name], atol=2e-3, err_msg=name)
        with one.averaged(), trainer.averaged():
            assert one.evaluate(given)[k].item() == pytest.approx(float(trainer.evaluate(given[k])), abs=1e-4)
        state, its = one.optimizer_state(k), trainer.optimizer_state()
        assert {name: array.shape for name, array in state.items()} == {name: a.shape for name, a in its.items()}
        assert state["step"] == STEPS
        for kind, of in trainer.diagnostics().items():
            ours_of = without_key_biases(one.diagnostics(k)[kind])
            assert ours_of == pytest.approx(without_key_biases(of), abs=1e-3)


def test_norms_before_clipping_are_each_seed_s_own() -> None:
    one, each = together(DROPPING, clipped("adamw")), alone(DROPPING, clipped("adamw"))
    given = batches(DROPPING, 1)
    for ours, trainer, batch in zip(one.step(given, 1e-3), each, given, strict=True):
        theirs = trainer.step(batch, 1e-3)
        assert float(ours["grad_norm"]) == pytest.approx(float(theirs["grad_norm"]), rel=1e-5)
        assert ours["grad_norms"].tolist() == pytest.approx(theirs["grad_norms"].tolist(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["adamw", "kbeta", "muon"])
def test_a_seed_continues_alone_and_together_from_the_same_checkpoint(name: str) -> None:
    one, each = together(DROPPING, OPTIMIZERS[name]), alone(DROPPING, OPTIMIZERS[name])
    for step in range(1, 4):
        one.step(batches(DROPPING, step), 3e-3)
    states = [(one.weights(k), one.optimizer_state(k)) for k in range(len(SEEDS))]
    for trainer, (weights, state) in zip(each, states, strict=True):
        trainer.load(weights, state)
    again = together(DROPPING, OPTIMIZERS[name])
    again.load([weights for weights, _ in states], [state for _, state in states])
    ours, theirs = losses(one, each, 4, 8)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert [[float(m["loss_nats"]) for m in again.step(batches(DROPPING, step), 3e-3)] for step in range(4, 9)] == ours


def test_weights_and_documents_that_some_seeds_have() -> None:
    """The others get their defaults: weight 1, one document a row."""
    config = MODELS["llama"]
    one, each = together(config), alone(config)
    given = batches(config, 1)
    weights = np.random.default_rng(0).random(given[0].inputs.shape, np.float32)
    segments = np.repeat([[0, 1]], 8, axis=1).repeat(4, axis=0)
    given[0] = replace(given[0], weights=weights)
    given[1] = replace(given[1], segments=segments)
    expected = [float(t.step(batch, 1e-3)["loss_nats"]) for t, batch in zip(each, given, strict=True)]
    assert [float(m["loss_nats"]) for m in one.step(given, 1e-3)] == pytest.approx(expected, abs=1e-5)


def test_a_loss_of_which_not_all_logits_are_held_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config, given = MODELS["gpt2"], batches(MODELS["gpt2"], 1)
    expected = together(config).evaluate(given).tolist()
    monkeypatch.setattr(fused, "LOGITS_BYTES", 4096)
    one = together(config)
    assert one.evaluate(given).tolist() == pytest.approx(expected, abs=1e-6)
    assert [float(m["loss_nats"]) for m in one.step(given, 1e-3)] == pytest.approx(expected, abs=1e-6)


def test_a_seed_that_diverges_leaves_the_others_alone() -> None:
    healthy, ill = together(DROPPING, KBETA), together(DROPPING, KBETA)
    weights = [initial_arrays(DROPPING, seed) for seed in SEEDS]
    weights[1] = weights[1] | {"norm.weight": np.full_like(weights[1]["norm.weight"], np.nan)}
    ill.load(weights)
    for step in (1, 2):
        given = batches(DROPPING, step)
        one, other = ([float(m["loss_nats"]) for m in t.step(given, 1e-3)] for t in (healthy, ill))
        assert np.isnan(other[1])
        assert [other[0], other[2]] == [one[0], one[2]]


def test_narrow_copies_of_the_weights_change_no_bit() -> None:
    usual, narrow = (together(DROPPING, clipped("muon"), dtype="bfloat16", grad_accum_steps=2) for _ in range(2))
    narrow.keep_narrow()
    for step in range(1, 4):
        given = batches(DROPPING, step)
        ours, theirs = ([float(m["loss_nats"]) for m in t.step(given, 1e-2)] for t in (narrow, usual))
        assert ours == theirs
    narrow.load([usual.weights(k) for k in range(len(SEEDS))])
    assert narrow.evaluate(given).tolist() == usual.evaluate(given).tolist()


def test_what_does_not_fit_is_one_line() -> None:
    one, given = together(MODELS["gpt2"]), batches(MODELS["gpt2"], 1)
    with pytest.raises(UserError, match=r"2 batches of shapes .* for 3 seeds"):
        one.step(given[:2], 1e-3)
    with pytest.raises(UserError, match="all of one shape"):
        one.step([*given[:2], batches(MODELS["gpt2"], 1, length=8)[2]], 1e-3)
    with pytest.raises(UserError, match='set kernels = "fused"'):
        together(MODELS["gpt2"], kernels="scratch")
    states = [one.optimizer_state(k) for k in range(3)]
    states[2] = states[2] | {"step": np.array(7)}
    with pytest.raises(UserError, match=r"steps \[0, 7\]"):
        one.load([one.weights(k) for k in range(3)], states)
    with pytest.raises(UserError, match="2 states for 3 seeds"):
        one.load([one.weights(k) for k in range(2)])


def test_the_backend_builds_them() -> None:
    config = MODELS["gpt2"]
    weights = [initial_arrays(config, seed) for seed in SEEDS]
    built = load_backend("torch").build_seeds(config, ADAMW, StepConfig(device="cpu"), weights, SEEDS)
    assert [float(loss) for loss in built.evaluate(batches(config, 1))]
