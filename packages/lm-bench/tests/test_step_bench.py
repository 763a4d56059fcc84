"""Both sides on a tiny model: they agree, and the check sees it when they are not the same model."""

from dataclasses import replace

import pytest

from lm_bench.agreement import NotSameModelError
from lm_bench.cases import CASES, Case
from lm_bench.sides import make_step
from lm_bench.step import compare, measure_times
from lm_core.config import AdamWConfig, ModelConfig, StepConfig

WITH_BIASES = ModelConfig(vocab_size=11, seq_len=8, d_model=16, n_layers=2, n_heads=2, head_bias=True)
TIED = WITH_BIASES.model_copy(update={"mlp": "gelu", "bias": False, "head_bias": False, "tie_embeddings": True})
STEP = StepConfig(device="auto")
ROUNDS, STEPS = 3, 4


def tiny(model=WITH_BIASES, **changes):
    return replace(Case("tiny", model, AdamWConfig(), batch_size=2, lr=1e-2), **changes)


def run(backend, ours, bare):
    batches = ours.batches(STEPS * (ROUNDS + 2))
    steps = make_step(backend, "ours", ours, STEP), make_step(backend, "bare", bare, STEP)
    return compare(*steps, batches, ROUNDS, 1e-3)


@pytest.fixture(params=["torch", "mlx"])
def backend(request):
    pytest.importorskip(f"lm_{request.param}")
    return request.param


@pytest.mark.parametrize("model", [WITH_BIASES, TIED], ids=["biases", "tied"])
def test_both_sides_take_the_same_steps(backend, model):
    times = run(backend, tiny(model), tiny(model))
    assert times.agreement.steps == STEPS * (ROUNDS + 2)
    assert times.agreement.last_loss < times.agreement.first_loss
    assert times.ratio.low <= times.ratio.median <= times.ratio.high


@pytest.mark.parametrize(
    "changed",
    [
        tiny(optimizer=AdamWConfig(beta2=0.99)),
        tiny(optimizer=AdamWConfig(eps=1e-3)),
        tiny(lr=1.1e-2),
        tiny(WITH_BIASES.model_copy(update={"n_heads": 1})),
        tiny(WITH_BIASES.model_copy(update={"norm_eps": 1e-1})),
    ],
    ids=["beta2", "eps", "lr", "heads", "norm_eps"],
)
def test_another_model_or_optimizer_is_noticed(backend, changed):
    with pytest.raises(NotSameModelError, match="not the same model"):
        run(backend, tiny(), changed)


def test_a_shipped_case_can_be_measured(backend):
    times = measure_times(backend, CASES["testbed-d"], STEP, rounds=1, steps=1)
    assert times.ours_ms.median > 0
    assert times.agreement.worst < 1e-4


def test_the_bare_loops_agree_in_bfloat16(backend):
    half = StepConfig(dtype="bfloat16")
    case = tiny()
    ours, bare = (make_step(backend, side, case, half) for side in ("ours", "bare"))
    for batch in case.batches(5):
        assert float(ours(batch)) == pytest.approx(float(bare(batch)), abs=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_bare_loop_is_the_same_loop(dtype):
    pytest.importorskip("lm_mlx")  # torch's compiler takes a minute
    case = tiny()
    eager, compiled = (make_step("mlx", "bare", case, StepConfig(dtype=dtype, compile=c)) for c in (False, True))
    for batch in case.batches(5):
        assert float(eager(batch)) == pytest.approx(float(compiled(batch)), abs=1e-3)
