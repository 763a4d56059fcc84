"""A step that is replayed is the step: on a CPU the function is called where a GPU would replay its kernels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_core.config import OptimizerConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows
from lm_core.testing import ADAMW, KBETA, MODELS, OPTIMIZERS, rough_arrays, some_batches
from lm_torch import graph
from lm_torch.graph import WARM_UP, Graphs, is_launch_bound
from lm_torch.step import TorchTrainer

CPU = torch.device("cpu")
CONFIG = MODELS["testbed-d"].model_copy(update={"dropout": 0.1})


def trainer(optimizer: OptimizerConfig, grad_clip: float = 0.0, **step: Any) -> TorchTrainer:
    clipped = optimizer.model_copy(update={"grad_clip": grad_clip})
    return TorchTrainer(CONFIG, clipped, StepConfig(device="cpu", **step), rough_arrays(CONFIG), 0, CPU)


def batches() -> RandomWindows:
    """Rows of two lengths."""
    return RandomWindows(some_batches(CONFIG).tokens, 4, LengthRule(1, 16, 8), 2)


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


@pytest.mark.parametrize("kernels", ["fused", "scratch"])
@pytest.mark.parametrize("name", ["adamw", "adamw-uncorrected", "kbeta", "kbeta-everything", "muon"])
def test_replayed_steps_are_the_steps_to_the_bit(name: str, kernels: str) -> None:
    """Two lengths, micro-batches, dropout, clipping, a rate that changes; metrics are read after the last step."""
    how = {"kernels": kernels, "grad_accum_steps": 2, "grad_clip": 0.5}
    plain, replayed = (trainer(OPTIMIZERS[name], cuda_graph=key, **how) for key in ("off", "on"))
    said = []
    for one in (plain, replayed):
        metrics = [one.step(batches().batch(step), 1e-3 * step) for step in range(1, 11)]
        said.append([[float(m["loss_nats"]), float(m["grad_norm"]), *m["grad_norms"].tolist()] for m in metrics])
    assert len(replayed.graphs.recordings) == 2
    assert not plain.graphs.seen
    assert said[0] == said[1]
    assert len({tuple(values) for values in said[1]}) == 10
    assert same_bits(plain.weights(), replayed.weights())
    assert same_bits(plain.optimizer_state(), replayed.optimizer_state())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loading_writes_into_the_memory_that_a_graph_knows(name: str) -> None:
    one, other = trainer(OPTIMIZERS[name]), trainer(OPTIMIZERS[name])

    def places(of: TorchTrainer) -> list[int]:
        state = [tensor for key, tensor in of.optimizer.named_state().items() if key != "step"]
        return [tensor.data_ptr() for tensor in [*of.params.values(), *state]]

    before = places(one)
    for step in range(1, 3):
        one.step(batches().batch(step), 1e-3)
        other.step(batches().batch(step), 2e-3)
    one.load(other.weights(), other.optimizer_state())
    assert places(one) == before
    assert same_bits(one.optimizer_state(), other.optimizer_state())


def test_a_loaded_state_is_what_replays_go_on_from() -> None:
    one, other = trainer(KBETA, cuda_graph="on"), trainer(KBETA, cuda_graph="off")
    for step in range(1, 7):
        one.step(batches().batch(step), 1e-2)
        other.step(batches().batch(step), 1e-3)
    one.load(other.weights(), other.optimizer_state())
    for step in range(7, 10):
        losses = [float(each.step(batches().batch(step), 1e-3)["loss_nats"]) for each in (one, other)]
        assert losses[0] == losses[1]


def test_a_loss_that_is_not_finite_keeps_its_step() -> None:
    """The static result of a graph is overwritten by the next replay; what was said of a step is not."""
    one = trainer(ADAMW, cuda_graph="on")
    batch = batches().batch(1)
    metrics = [one.step(batch, 1e-3) for _ in range(WARM_UP + 2)]
    weights = one.weights()
    one.load(weights | {"norm.weight": np.full_like(weights["norm.weight"], np.nan)})
    metrics.append(one.step(batch, 1e-3))
    one.load(weights)
    metrics.append(one.step(batch, 1e-3))
    assert [bool(np.isfinite(float(m["loss_nats"]))) for m in metrics] == [True] * 4 + [False, True]


def test_a_shape_is_recorded_after_its_first_calls_and_called_with_the_values_given() -> None:
    given: list[float] = []

    def function(x: Tensor, y: Tensor | None) -> Tensor:
        given.append(float(x[0]))
        return x if y is None else x + y

    step = Graphs(CPU)
    for value in range(5):
        x = torch.full((3,), float(value))
        assert step.call(function, x, None).tolist() == x.tolist()
    assert given == [0, 1, 2, 3, 4]
    assert list(step.recordings) == [((3,), None)]
    step.call(function, torch.zeros(2), torch.zeros(2))
    assert len(step.recordings) == 1


def test_what_cannot_be_recorded_is_called_and_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(graph, "_Recording", refuse)
    step = Graphs(CPU)
    for length in (2, 3):
        for _ in range(WARM_UP + 2):
            assert step.call(lambda x: x + 1, torch.zeros(length)).tolist() == [1.0] * length
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "not permitted when stream is capturing" in lines[0]


def test_small_steps_are_recorded_by_themselves_and_large_ones_are_not() -> None:
    assert is_launch_bound(19_000_000, 4 * 512)  # Testbed D as published
    assert not is_launch_bound(124_000_000, 64 * 1024)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["adamw", "adamw-uncorrected", "kbeta-everything", "muon"])
@pytest.mark.parametrize("model", ["gpt2", "llama", "testbed-d"])
def test_narrow_copies_of_the_weights_change_no_bit(model: str, name: str, parts: int) -> None:
    """Steps, an evaluation, gradients, a checkpoint that is loaded in the middle."""
    config = MODELS[model].model_copy(update={"dropout": 0.1})
    step = StepConfig(device="cpu", dtype="bfloat16", grad_accum_steps=parts, cuda_graph="on")
    clipped = OPTIMIZERS[name].model_copy(update={"grad_clip": 0.5})
    usual, narrow = (TorchTrainer(config, clipped, step, rough_arrays(config), 0, CPU) for _ in range(2))
    narrow.keep_narrow()
    assert {copy.dtype for copy in narrow.narrow.values()} == {torch.bfloat16}
    given = RandomWindows(some_batches(config).tokens, 4, LengthRule(16, 16), 2)
    for first in (1, 5):
        for number in range(first, first + 4):
            metrics = [one.step(given.batch(number), 1e-2) for one in (usual, narrow)]
            assert float(metrics[0]["loss_nats"]) == float(metrics[1]["loss_nats"])
            assert metrics[0]["grad_norms"].tolist() == pytest.approx(metrics[1]["grad_norms"].tolist(), rel=1e-6)
        assert same_bits(usual.gradients(given.batch(9))[1], narrow.gradients(given.batch(9))[1])
        assert float(usual.evaluate(given.batch(9))) == float(narrow.evaluate(given.batch(9)))
        weights, state = usual.weights(), usual.optimizer_state()
        assert same_bits(weights, narrow.weights())
        assert same_bits(state, narrow.optimizer_state())
        for one in (usual, narrow):
            one.load({key: array * np.float32(1.01) for key, array in weights.items()}, state)
