"""One training run on two backends: torch against MLX, on the CPU, in float32."""

from typing import Any

import numpy as np
import pytest

from lm_core.backend import Trainer, load_backend
from lm_core.config import (
    AdamWConfig,
    KBetaConfig,
    ModelConfig,
    MuonConfig,
    OptimizerConfig,
    SamplingConfig,
    ScheduleConfig,
    StepConfig,
)
from lm_core.data.batches import LengthRule, RandomWindows
from lm_core.model.init import initial_arrays
from lm_core.sampling import Generation, generate
from lm_core.schedules import learning_rate
from lm_core.testing import MODELS, packed_batch, rough_arrays, some_batches, without_key_biases
from lm_pipeline.text.one_file import standard_library_text
from lm_tokenizer.adapters import train_tokenizer

pytest.importorskip("mlx.core")

KBETA = KBetaConfig(beta2_min=0.88, alpha=0.93, tiny_spike=1e-9, bias_correction="beta2max", warmup_steps=10)
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adam": AdamWConfig(),
    "kbeta-global": KBETA,
    "kbeta-shape": KBETA.model_copy(update={"buckets": "shape"}),
    "kbeta-per-array": KBETA.model_copy(update={"buckets": "per-array"}),
    "muon": MuonConfig(weight_decay=0.1, lr_factor=2.0),
}
SCHEDULE = ScheduleConfig(peak_lr=1e-3, warmup_steps=5)


class Corpus:
    """Testbed D in small, on real text, with lengths that vary."""

    def __init__(self) -> None:
        text = standard_library_text(100_000)
        self.tokenizer = train_tokenizer("characters", [text])
        self.model = ModelConfig(
            vocab_size=self.tokenizer.vocab_size, seq_len=64, d_model=64, n_layers=2, n_heads=4, head_bias=True
        )
        self.batches = RandomWindows(self.tokenizer.encode_array(text), 4, LengthRule(16, 64, 16, 64), 0)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


def trainer(backend: str, model: ModelConfig, optimizer: OptimizerConfig, weights: Any = None) -> Trainer:
    arrays = initial_arrays(model, 0) if weights is None else weights
    return load_backend(backend).build(model, optimizer, StepConfig(device="cpu"), arrays, 0)


def losses(trained: Trainer, corpus: Corpus, first: int, last: int) -> list[float]:
    """The losses of the steps from `first` to `last`."""
    steps = range(first, last + 1)
    return [
        float(trained.step(corpus.batches.batch(step), learning_rate(SCHEDULE, step))["loss_nats"]) for step in steps
    ]


@pytest.mark.parametrize("name", MODELS)
def test_initial_arrays_are_identical_to_the_bit(name: str) -> None:
    torch, mlx = (trainer(backend, MODELS[name], AdamWConfig()).weights() for backend in ("torch", "mlx"))
    assert list(torch) == list(mlx)
    assert all(torch[key].tobytes() == mlx[key].tobytes() for key in torch)


@pytest.mark.parametrize("name", MODELS)
def test_logits_agree_within_1e_5(name: str) -> None:
    model, batch = MODELS[name], some_batches(MODELS[name]).batch(1)
    torch, mlx = (trainer(b, model, AdamWConfig(), rough_arrays(model)).logits(batch.inputs) for b in ("torch", "mlx"))
    np.testing.assert_allclose(torch, mlx, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_agree_within_1e_4_relative_also_with_dropout(name: str, dropout: float) -> None:
    model = MODELS[name].model_copy(update={"dropout": dropout})
    batch = some_batches(model).batch(1)
    torch, mlx = (trainer(b, model, AdamWConfig(), rough_arrays(model)).gradients(batch)[1] for b in ("torch", "mlx"))
    for key in without_key_biases(torch):
        difference = np.linalg.norm(torch[key] - mlx[key]) / np.linalg.norm(torch[key])
        assert difference < 1e-4, key


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_of_packed_documents_agree_also_with_weights_and_dropout(name: str) -> None:
    model = MODELS[name].model_copy(update={"dropout": 0.2})
    batch = packed_batch(model)
    torch, mlx = (trainer(b, model, AdamWConfig(), rough_arrays(model)) for b in ("torch", "mlx"))
    np.testing.assert_allclose(torch.score(batch), mlx.score(batch), rtol=0, atol=1e-5)
    marks, mlx_marks = torch.marks(batch), mlx.marks(batch)
    np.testing.assert_allclose(marks.confidence, mlx_marks.confidence, rtol=0, atol=1e-5)
    assert (marks.rank != mlx_marks.rank).mean() < 0.05  # of near ties
    (loss, grads), (mlx_loss, mlx_grads) = torch.gradients(batch), mlx.gradients(batch)
    assert loss == pytest.approx(mlx_loss, abs=1e-5)
    for key in without_key_biases(grads):
        assert np.linalg.norm(grads[key] - mlx_grads[key]) < 1e-4 * np.linalg.norm(grads[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_what_a_tap_reads_of_packed_documents_agrees(name: str) -> None:
    model, batch = MODELS[name], packed_batch(MODELS[name])
    taps = [trainer(backend, model, AdamWConfig(), rough_arrays(model)).tap(batch) for backend in ("torch", "mlx")]
    for torch, mlx in zip(*taps, strict=True):
        np.testing.assert_allclose(torch.attention(), mlx.attention(), rtol=0, atol=2e-6)
        np.testing.assert_allclose(torch.residual(), mlx.residual(), rtol=0, atol=1e-5)
        (nats, ids), (mlx_nats, mlx_ids) = torch.lens(batch.targets), mlx.lens(batch.targets)
        np.testing.assert_allclose(nats, mlx_nats, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(ids, mlx_ids)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_losses_agree_within_1e_4_over_50_steps_also_of_a_state_that_crosses(corpus: Corpus, name: str) -> None:
    trainers = {backend: trainer(backend, corpus.model, OPTIMIZERS[name]) for backend in ("torch", "mlx")}
    curves = {backend: losses(trained, corpus, 1, 20) for backend, trained in trainers.items()}
    held = {backend: (trained.weights(), trained.optimizer_state()) for backend, trained in trainers.items()}
    for backend, trained in trainers.items():
        curves[backend] += losses(trained, corpus, 21, 50)
    assert curves["torch"][-1] < curves["torch"][0] - 0.5, "nothing was learned, so nothing was compared"
    np.testing.assert_allclose(curves["torch"], curves["mlx"], rtol=0, atol=1e-4)
    for first, second in (("torch", "mlx"), ("mlx", "torch")):
        weights, optimizer_state = held[first]
        other = trainer(second, corpus.model, OPTIMIZERS[name], initial_arrays(corpus.model, 1))
        other.load(weights, optimizer_state)
        for kind, array in other.optimizer_state().items():
            np.testing.assert_array_equal(array, optimizer_state[kind], err_msg=kind)
        np.testing.assert_allclose(losses(other, corpus, 21, 50), curves[first][20:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "sampling",
    [SamplingConfig(), SamplingConfig(temperature=0.8, top_k=20, top_p=0.95, min_p=0.02)],
    ids=["all", "cut"],
)
def test_the_same_seed_and_prompt_give_the_same_64_ids(name: str, sampling: SamplingConfig) -> None:
    model = MODELS[name]
    torch, mlx = (
        list(generate(trainer(b, model, KBETA, rough_arrays(model)).decoder(), [1, 2, 3], 64, 24, 7, sampling))
        for b in ("torch", "mlx")
    )
    assert torch == mlx
    assert len(torch) == 64


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(temperature=0, repetition_penalty=1.3),
        SamplingConfig(temperature=0.9, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
    ],
    ids=["greedy", "cut"],
)
def test_prompts_of_unequal_length_continued_together_give_the_same_ids(name: str, sampling: SamplingConfig) -> None:
    """Past the window, one of them ended early."""
    model = MODELS[name]
    texts = []
    for backend in ("torch", "mlx"):
        prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], list(range(30))]
        decoder = trainer(backend, model, KBETA, rough_arrays(model)).decoder(len(prompts))
        generation = Generation(decoder, prompts, model.seq_len, 7, sampling)
        for position in range(40):
            if position == 9:
                generation.end({1})
            generation.step()
        texts.append(generation.ids)
    assert texts[0] == texts[1]
    assert [len(ids) for ids in texts[0]] == [43, 10, 46, 70]
