"""The training step on a CUDA device: it waits for nothing, replays itself, and repeats its bits."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from lm_core.config import ModelConfig, OptimizerConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows
from lm_core.errors import MemoryFullError
from lm_core.testing import ADAMW, KBETA, MODELS, OPTIMIZERS, rough_arrays, some_batches, without_key_biases
from lm_torch import fused, scratch
from lm_torch.backend import TorchBackend
from lm_torch.graph import WARM_UP
from lm_torch.products import add_product_
from lm_torch.step import TorchTrainer

pytestmark = pytest.mark.gpu

SMALL = MODELS["testbed-d"].model_copy(update={"dropout": 0.1})
LARGER = ModelConfig(vocab_size=1000, seq_len=128, d_model=128, n_layers=1, n_heads=2, tie_embeddings=True)
CALM = ADAMW.model_copy(update={"eps": 1e-3})
"""With the usual eps, elements whose gradient is rounding noise would take full steps."""


def trainer(
    optimizer: OptimizerConfig = CALM, config: ModelConfig = SMALL, grad_clip: float = 0.0, **step: Any
) -> TorchTrainer:
    clipped = optimizer.model_copy(update={"grad_clip": grad_clip})
    built = TorchBackend().build(config, clipped, StepConfig(device="gpu", **step), rough_arrays(config), 0)
    assert isinstance(built, TorchTrainer)
    return built


def take(one: TorchTrainer, batches: RandomWindows, first: int, last: int) -> list[float]:
    metrics = [one.step(batches.batch(step), 1e-3) for step in range(first, last + 1)]
    return [float(m["loss_nats"]) for m in metrics]


def lengths(config: ModelConfig = SMALL) -> RandomWindows:
    """Rows of two lengths."""
    return RandomWindows(some_batches(config).tokens, 4, LengthRule(1, 16, 8), 2)


def assert_same_bits(one: TorchTrainer, other: TorchTrainer) -> None:
    for ours, theirs in ((one.weights(), other.weights()), (one.optimizer_state(), other.optimizer_state())):
        different = [key for key, array in ours.items() if array.tobytes() != theirs[key].tobytes()]
        assert not different


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graph", ["off", "on"])
@pytest.mark.parametrize("name", ["adamw", "kbeta", "kbeta-everything", "muon"])
def test_the_host_does_not_wait_for_a_step(name: str, graph: str) -> None:
    one, batches = trainer(OPTIMIZERS[name], cuda_graph=graph, grad_accum_steps=2, grad_clip=0.5), some_batches(SMALL)
    take(one, batches, 1, WARM_UP + 1)
    with no_waiting():
        metrics = [one.step(batches.batch(step), 1e-3) for step in range(5, 9)]
    assert all(np.isfinite(float(m["loss_nats"])) for m in metrics)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replayed_steps_are_the_steps(name: str, dtype: str) -> None:
    """Two lengths, micro-batches, dropout, clipping; every metric is read after the last step."""
    how = {"dtype": dtype, "grad_accum_steps": 2, "grad_clip": 0.5}
    plain, replayed = (trainer(OPTIMIZERS[name], cuda_graph=key, **how) for key in ("off", "on"))
    losses = [take(one, lengths(), 1, 12) for one in (plain, replayed)]
    assert replayed.graphs.can_record
    assert len(replayed.graphs.recordings) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-4 if dtype == "float32" else 1e-2)
    if dtype == "float32":
        expected = plain.weights()
        for key, array in without_key_biases(replayed.weights()).items():
            np.testing.assert_allclose(array, expected[key], atol=5e-4, err_msg=key)


@pytest.mark.parametrize("graph", ["off", "on"])
def test_clipping_in_the_update_is_the_cpu_s(graph: str) -> None:
    gpu = trainer(config=MODELS["llama"], cuda_graph=graph, grad_clip=0.05)
    clipped = CALM.model_copy(update={"grad_clip": 0.05})
    cpu = TorchBackend().build(MODELS["llama"], clipped, StepConfig(device="cpu"), rough_arrays(MODELS["llama"]), 0)
    batches = some_batches(MODELS["llama"])
    for step in range(1, 6):
        norms = [float(one.step(batches.batch(step), 1e-2)["grad_norm"]) for one in (gpu, cpu)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    expected = cpu.weights()
    for key, array in gpu.weights().items():
        np.testing.assert_allclose(array, expected[key], atol=2e-5, err_msg=key)


def test_a_loss_that_is_not_finite_keeps_its_step() -> None:
    one, batch = trainer(cuda_graph="on"), some_batches(SMALL).batch(1)
    metrics = [one.step(batch, 1e-3) for _ in range(WARM_UP + 2)]
    weights = one.weights()
    one.load(weights | {"norm.weight": np.full_like(weights["norm.weight"], np.nan)})
    metrics.append(one.step(batch, 1e-3))
    one.load(weights)
    metrics.append(one.step(batch, 1e-3))
    assert one.graphs.recordings
    assert [bool(np.isfinite(float(m["loss_nats"]))) for m in metrics] == [True] * 4 + [False, True]


@pytest.mark.parametrize("graph", ["off", "on"])
@pytest.mark.parametrize("name", ["adamw", "kbeta", "muon"])
def test_a_snapshot_is_read_as_it_was_taken_while_training_goes_on(name: str, graph: str) -> None:
    one, batches = trainer(OPTIMIZERS[name], cuda_graph=graph), some_batches(SMALL)
    for first in (1, 7):
        take(one, batches, first, first + 3)
        weights, state = one.weights(), one.optimizer_state()
        read = one.snapshot()
        take(one, batches, first + 4, first + 5)
        later_weights, later_state = read()
        for ours, theirs in ((later_weights, weights), (later_state, state)):
            assert all(array.tobytes() == theirs[key].tobytes() for key, array in ours.items())


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's advice
@pytest.mark.parametrize(
    ("dtype", "compiled"), [("float32", False), ("bfloat16", False), ("bfloat16", True)], ids=["32", "16", "compiled"]
)
def test_deterministic_steps_repeat_and_resume_to_the_bit(dtype: str, compiled: bool) -> None:
    """Two runs and one that is resumed, which warms up and records at other steps, and compiles anew."""
    how = {"dtype": dtype, "compile": compiled, "deterministic": True, "grad_accum_steps": 2, "grad_clip": 1.0}
    batches = RandomWindows(np.arange(5000) * 7919 % 997 % LARGER.vocab_size, 8, LengthRule(128, 128), 3)
    ends = []
    for stop in (None, None, 5):
        one = trainer(KBETA, LARGER, **how)
        losses = take(one, batches, 1, stop or 9)
        if stop:
            weights, state = one.weights(), one.optimizer_state()
            torch.compiler.reset()
            one = trainer(KBETA, LARGER, **how)
            one.load(weights, state)
            losses += take(one, batches, stop + 1, 9)
        ends.append((losses, one))
    for losses, one in ends[1:]:
        assert losses == ends[0][0]
        assert_same_bits(one, ends[0][1])


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's advice
@pytest.mark.parametrize("varying", [False, True])
def test_a_compiled_step_in_a_graph_is_the_plain_one(varying: bool) -> None:
    config = MODELS["bare"].model_copy(update={"dropout": 0.1})
    plain = trainer(KBETA, config, cuda_graph="off")
    compiled = trainer(KBETA, config, compile=True, cuda_graph="on", varying_length=varying)
    batches = lengths() if varying else some_batches(config)
    losses = [take(one, batches, 1, 12) for one in (plain, compiled)]
    assert compiled.graphs.can_record
    assert compiled.graphs.recordings
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_tf32_is_what_the_config_says_and_no_more() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, LARGER.vocab_size, (4, 128)).astype(np.int32)
    exact, again, rounded = (
        trainer(config=LARGER, matmul_precision=key).logits(ids) for key in ("highest", "highest", "high")
    )
    np.testing.assert_array_equal(exact, again)
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-6 < difference < 1e-2
    assert "TF32" in TorchBackend().describe(StepConfig(device="gpu", matmul_precision="high"))
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("rows", [64, 300, 4096], ids=lambda rows: f"{rows} rows at a time")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_head_s_loss_and_gradients_are_the_spelled_out_ones(
    rows: int, dtype: torch.dtype, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    V, D, tokens = 1003, 64, 1000
    monkeypatch.setattr(fused, "GPU_LOGITS_BYTES", rows * dtype.itemsize * V)
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, device="cuda") for shape in ((tokens, D), (V, D), (V,)))
    targets = torch.randint(0, V, (tokens,), device="cuda")
    weights = torch.rand(tokens, device="cuda") if weighted else None
    ours = [a.to(dtype).requires_grad_() for a in (x, weight, bias)]
    theirs = [a.detach().double().requires_grad_() for a in ours]
    loss = fused.linear_cross_entropy(*ours, targets, weights)
    expected = scratch.linear_cross_entropy(*theirs, targets, None if weights is None else weights.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5 if dtype == torch.float32 else 5e-3)
    (2 * loss).backward()
    (2 * expected).backward()
    for one, other in zip(ours, theirs, strict=True):
        bound = 1e-5 if dtype == torch.float32 else 0.015
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad.double() - other.grad).norm() < bound * other.grad.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_is_added_to_a_wide_sum_in_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(256, 48, device="cuda").to(dtype), torch.randn(256, 40, device="cuda").to(dtype)
    total = torch.full((48, 40), torch.nan, device="cuda")
    place = total.data_ptr()
    add_product_(total, a, b, keep=False)
    expected = a.double().t() @ b.double()
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-3)
    for _ in range(3):
        add_product_(total, a, b)
    torch.testing.assert_close(total.double(), 4 * expected, rtol=1e-4, atol=1e-3)
    assert total.data_ptr() == place


def test_memory_that_does_not_suffice_is_one_line() -> None:
    free = torch.cuda.mem_get_info()[0]
    config = LARGER.model_copy(update={"seq_len": 1024, "n_layers": 8})
    one = trainer(config=config, kernels="scratch")
    torch.cuda.empty_cache()
    batch = RandomWindows(np.zeros(5000, np.int64), 64, LengthRule(1024, 1024), 0).batch(1)
    held = torch.empty(max(1, free - (1 << 30)), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(MemoryFullError, match=r"memory is full \(.* GiB, .* of them here, .* free\)"):
            one.step(batch, 1e-3)
    finally:
        del held
        torch.cuda.empty_cache()
