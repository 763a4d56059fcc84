"""What a CUDA device computes is what the CPU does: deselected where there is none."""

import numpy as np
import pytest
import torch

from lm_core.config import SamplingConfig, StepConfig
from lm_core.sampling import Generation, generate
from lm_core.testing import ADAMW, MODELS, packed_batch, rough_arrays, some_batches, without_key_biases
from lm_torch.backend import TorchBackend
from lm_torch.decode import TorchDecoder
from lm_torch.static_decode import StaticDecoder
from lm_torch.step import TorchTrainer

pytestmark = pytest.mark.gpu
GREEDY = SamplingConfig(temperature=0)
SAMPLED = SamplingConfig(temperature=0.8, top_k=12, top_p=0.9, repetition_penalty=1.2)


def trainer(name: str, step: StepConfig) -> TorchTrainer:
    config = MODELS[name].model_copy(update={"dropout": 0.1})
    # With the usual eps, elements whose gradient is rounding noise would take full steps.
    built = TorchBackend().build(config, ADAMW.model_copy(update={"eps": 1e-3}), step, rough_arrays(config), 0)
    assert isinstance(built, TorchTrainer)
    return built


@pytest.mark.parametrize("kernels", ["fused", "scratch"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_gradients_and_steps_are_the_cpu_s(name: str, kernels: str) -> None:
    steps = [StepConfig(device=device, kernels=kernels) for device in ("gpu", "cpu")]
    gpu, cpu = (trainer(name, step) for step in steps)
    assert gpu.device.type == "cuda"
    batches = some_batches(gpu.model.config)
    batch = batches.batch(1)
    np.testing.assert_allclose(gpu.logits(batch.inputs), cpu.logits(batch.inputs), atol=2e-5)
    (loss, grads), (cpu_loss, cpu_grads) = gpu.gradients(batch), cpu.gradients(batch)
    assert loss == pytest.approx(cpu_loss, abs=1e-5)
    for key, grad in grads.items():
        np.testing.assert_allclose(grad, cpu_grads[key], atol=5e-6, err_msg=key)
    for number in range(1, 4):
        losses = [float(one.step(batches.batch(number), 1e-3)["loss_nats"]) for one in (gpu, cpu)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    weights, cpu_weights = gpu.weights(), cpu.weights()
    for key in without_key_biases(weights):
        np.testing.assert_allclose(weights[key], cpu_weights[key], atol=2e-5, err_msg=key)


@pytest.mark.parametrize("kernels", ["fused", "scratch"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_of_packed_documents_are_the_cpu_s(name: str, kernels: str) -> None:
    gpu, cpu = (trainer(name, StepConfig(device=device, kernels=kernels)) for device in ("gpu", "cpu"))
    batch = packed_batch(gpu.model.config)
    np.testing.assert_allclose(gpu.score(batch), cpu.score(batch), atol=2e-5)
    (loss, grads), (cpu_loss, cpu_grads) = gpu.gradients(batch), cpu.gradients(batch)
    assert loss == pytest.approx(cpu_loss, abs=1e-5)
    for key, grad in grads.items():
        np.testing.assert_allclose(grad, cpu_grads[key], atol=5e-6, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_tap_reads_is_the_cpu_s(name: str) -> None:
    batch = packed_batch(MODELS[name])
    for gpu, cpu in zip(
        *(trainer(name, StepConfig(device=device)).tap(batch) for device in ("gpu", "cpu")), strict=True
    ):
        np.testing.assert_allclose(gpu.attention(), cpu.attention(), atol=5e-6)
        np.testing.assert_allclose(gpu.residual(), cpu.residual(), atol=2e-5)
        np.testing.assert_allclose(gpu.lens(batch.targets)[0], cpu.lens(batch.targets)[0], atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_decoder_draws_the_ids_that_it_draws_on_the_cpu(name: str) -> None:
    config, sampling = MODELS[name], SamplingConfig(temperature=0.8, top_k=12, top_p=0.9, repetition_penalty=1.2)
    drawn = []
    for device in ("gpu", "cpu"):
        decoder = TorchBackend().decoder(config, StepConfig(device=device), rough_arrays(config))
        drawn.append(list(generate(decoder, [1, 2, 3], 40, config.seq_len, 0, sampling)))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, SamplingConfig()], ids=["greedy", "filtered", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_draws_the_ids_of_the_eager_decoder(name: str, sampling: SamplingConfig) -> None:
    """Rows of several lengths, past the window, some ended early: several graphs, each replayed many times."""
    built, prompts = trainer(name, StepConfig(device="gpu")).model, [[1, 2, 3], [4], list(range(20)), [5, 6]]
    graph = StaticDecoder(built, len(prompts), graph=True)
    texts = []
    for decoder in (graph, TorchDecoder(built, len(prompts))):
        generation = Generation(decoder, prompts, 24, 3, sampling)
        for position in range(40):
            generation.end({row for row, end in ((1, 7), (0, 20)) if end == position})
            generation.step()
        texts.append(generation.ids)
    assert graph.graph, "it was captured"
    assert texts[0] == texts[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.11's compiler
@pytest.mark.parametrize("rows", [1, 3])
def test_a_compiled_graph_gives_the_logits_of_the_plain_model_in_bfloat16(rows: int) -> None:
    """Teacher-forced: after the same ids, within what 8 bits leave."""
    built = trainer("llama", StepConfig(device="gpu", dtype="bfloat16")).model
    graph = StaticDecoder(built, rows, compile_step=True, graph=True)
    text = [[1 + row, 2, 3] for row in range(rows)]
    for row in range(rows):
        graph.prefill(row, text[row])
    for _ in range(4):
        for ids in graph.next_ids([[0.0] * rows] * 3, GREEDY):
            for ids_of_row, chosen in zip(text, ids, strict=True):
                ids_of_row.append(chosen)
        expected = built(torch.tensor(text, device="cuda"))[:, -1].detach().float()
        assert float((graph.logits - expected).norm()) <= 2e-2 * float(expected.norm())
