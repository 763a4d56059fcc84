"""Settings of torch that decide bits, what a GPU cannot do, and how the backend says it."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_core.config import StepConfig
from lm_core.errors import MemoryFullError, UserError
from lm_core.model.parameters import parameter_table
from lm_core.testing import ADAMW, MODELS, rough_arrays, some_batches
from lm_torch import attention, backend, fitting, fused, scratch
from lm_torch.attention import Attention, projected_together
from lm_torch.backend import TorchBackend, pick_device
from lm_torch.compiling import compiled
from lm_torch.layers import Linear
from lm_torch.numerics import Numerics
from lm_torch.optim import make_optimizer
from lm_torch.step import TorchTrainer

CPU = torch.device("cpu")


def settings() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_float32_matmul_precision(),
    )


def test_settings_hold_while_a_trainer_computes_and_are_put_back() -> None:
    before = settings()
    config = MODELS["testbed-d"]
    step = StepConfig(device="cpu", deterministic=True)
    trainer = TorchTrainer(config, ADAMW, step, rough_arrays(config), 0, CPU)
    inside: list[tuple[Any, ...]] = []
    loss = trainer.loss
    trainer.loss = lambda *args: (inside.append(settings()), loss(*args))[1]
    trainer.step(some_batches(config).batch(1), 1e-3)
    trainer.gradients(some_batches(config).batch(1))
    assert [deterministic for deterministic, *_ in inside] == [True, True]
    assert not any(filled for _, filled, _ in inside)
    assert settings() == before
    with pytest.raises(ZeroDivisionError), trainer.numerics():
        raise ZeroDivisionError
    assert settings() == before


@pytest.mark.parametrize("name", MODELS)
def test_a_deterministic_step_is_the_usual_one(name: str) -> None:
    """Every operation of the model has an algorithm that adds up in a fixed order."""
    config = MODELS[name].model_copy(update={"dropout": 0.1})
    losses = []
    for deterministic in (False, True):
        step = StepConfig(device="cpu", deterministic=deterministic)
        trainer = TorchTrainer(config, ADAMW.model_copy(update={"grad_clip": 1.0}), step, rough_arrays(config), 0, CPU)
        losses.append([float(trainer.step(some_batches(config).batch(i), 1e-3)["loss_nats"]) for i in (1, 2)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_compiler_knows_what_makes_its_choices_repeatable() -> None:
    assert Numerics(StepConfig(), CPU).compiler_options() is None
    assert Numerics(StepConfig(deterministic=True), CPU).compiler_options() == {"deterministic": True}


def test_results_say_what_they_were_computed_with() -> None:
    assert "TF32" not in TorchBackend().describe(StepConfig(device="cpu", matmul_precision="high"))
    assert TorchBackend().describe(StepConfig(device="cpu", deterministic=True)).endswith("threads, deterministic")


@pytest.mark.parametrize("bias", [True, False])
def test_projections_together_are_the_projections(bias: bool) -> None:
    """Values and gradients, with fewer key heads than query heads."""
    torch.manual_seed(0)
    module = Attention(32, 4, 2, bias)
    x = torch.randn(2, 5, 32, requires_grad=True)
    layers = [layer for layer in module.children() if isinstance(layer, Linear)][:3]
    weights = [torch.randn(2, 5, len(layer.weight)) for layer in layers]

    def results(outputs: list[Tensor]) -> list[Tensor]:
        loss = sum(((y * w).sum() for y, w in zip(outputs, weights, strict=True)), torch.zeros(()))
        return [*outputs, *torch.autograd.grad(loss, [x, *(p for layer in layers for p in layer.parameters())])]

    apart = results([layer(x) for layer in layers])
    for one, other in zip(apart, results(projected_together(x, *layers)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_on_a_cpu_small_projections_are_one_product_and_large_ones_three(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "JOINED_BYTES", 4 * 16 * 16)
    counts = []
    for kernels, size in ((fused, 16), (fused, 32), (scratch, 16)):
        module, seen = Attention(size, 2, 1, kernels=kernels), list[int]()
        linear = kernels.linear
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "linear", lambda x, w, b=None, f=linear, s=seen: s.append(len(w)) or f(x, w, b))
            module(torch.randn(2, 5, size))
        counts.append(seen)
    assert counts == [[32, 16], [32, 16, 16, 32], [16, 8, 8, 16]]


@pytest.mark.parametrize("by_kernel", [True, False])
def test_scaling_in_the_update_is_scaling_before_it(by_kernel: bool) -> None:
    torch.manual_seed(0)
    table = parameter_table(MODELS["bare"])
    start = {name: torch.randn(p.shape) for name, p in table.items()}
    grads = [torch.randn(p.shape) for p in table.values()]
    ends = []
    for scale in (None, torch.tensor(0.25)):
        params = {name: p.clone() for name, p in start.items()}
        optimizer = make_optimizer(ADAMW, table, params, by_kernel)
        given = [g.clone() if scale is not None else g * 0.25 for g in grads]
        optimizer.apply(given, optimizer.next_scalars(1e-2), scale)
        ends.append(params)
    assert all(torch.equal(p, ends[1][name]) for name, p in ends[0].items())


def test_memory_that_does_not_suffice_is_one_line() -> None:
    with pytest.raises(MemoryFullError, match=r"^the GPU's memory is full"), fitting.fitting():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore")


def test_a_card_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    fitting.check_dtype("bfloat16", CPU)
    fitting.check_dtype("float32", torch.device("cuda"))
    with pytest.raises(UserError, match=r"Tesla T4 .* float32"):
        fitting.check_dtype("bfloat16", torch.device("cuda"))


def test_a_model_in_bfloat16_is_not_begun_on_a_card_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(backend, "pick_device", lambda wish: torch.device("cuda"))
    step, one, small = StepConfig(dtype="bfloat16"), TorchBackend(), MODELS["testbed-d"]
    for begin in (lambda: one.build(small, ADAMW, step, {}, 0), lambda: one.decoder(small, step, {})):
        with pytest.raises(UserError, match=r"^dtype bfloat16: Tesla T4 does not compute in it; use dtype float32$"):
            begin()


def test_a_gpu_that_is_asked_for_and_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    with pytest.raises(UserError, match=r"no CUDA device here \(CUDA initialization: .* too old\); use device cpu"):
        pick_device("gpu")
    assert pick_device("auto") == CPU


def test_the_compiler_s_advice_is_not_shown() -> None:
    """Any other warning fails a test."""
    compiled(abs)
    warnings.warn("TensorFloat32 tensor cores for float32 matrix multiplication available", stacklevel=1)
    warnings.warn("\nOnline softmax is disabled on the fly", stacklevel=1)
    with pytest.raises(UserWarning, match="something else"):
        warnings.warn("something else", stacklevel=1)
