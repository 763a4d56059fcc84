"""The backend's own: stated peaks, a compiled decoder, and weights that do not fit."""

import numpy as np
import pytest
import torch

from lm_core.config import Dtype, SamplingConfig, StepConfig
from lm_core.sampling import Generation
from lm_core.testing import ADAMW, MODELS, packed_batch, rough_arrays, some_batches, without_key_biases
from lm_torch.backend import TorchBackend
from lm_torch.peak import stated_peak
from lm_torch.step import load_weights, make_model


@pytest.mark.parametrize(
    ("card", "dtype", "teraflops"),
    [
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 80GB HBM3", "float32", 67),
        ("NVIDIA H200", "bfloat16", 989),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-PCIE-40GB", "float32", 19.5),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA GeForce RTX 4090", "float32", 82.6),
        ("Tesla T4", "float32", 8.1),
        ("Tesla V100-SXM2-16GB", "float32", 15.7),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("NVIDIA L40", "bfloat16", None),
        ("NVIDIA A10", "bfloat16", None),
        ("NVIDIA GeForce GTX 1080", "float32", None),
    ],
)
def test_the_stated_peak_is_that_of_the_card_and_no_other(card: str, dtype: Dtype, teraflops: float | None) -> None:
    assert stated_peak(card, dtype) == (None if teraflops is None else teraflops * 1e12)


def test_a_cpu_has_no_stated_peak() -> None:
    assert TorchBackend().peak_flops(StepConfig(device="cpu")) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["testbed-d", "llama"])
def test_a_compiled_decoder_draws_the_same_ids(name: str) -> None:
    """Rows of different lengths, past the window, one ended early."""
    config, sampling = MODELS[name], SamplingConfig(temperature=0.8, top_k=20, repetition_penalty=1.2)
    texts = []
    for compiled in (False, True):
        step = StepConfig(device="cpu", compile=compiled)
        decoder = TorchBackend().decoder(config, step, rough_arrays(config), rows=3)
        generation = Generation(decoder, [[1, 2, 3], [4], [5, 6]], config.seq_len, 0, sampling)
        for position in range(30):
            if position == 20:
                generation.end({1})
            generation.step()
        texts.append(generation.ids)
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_compiling_changes_only_the_rounding_of_packed_documents(again: bool) -> None:
    """With weights, dropout and lengths that vary; a batch without either in between."""
    torch._dynamo.reset()  # what other tests compiled counts towards the limit from which on nothing is compiled
    config = MODELS["llama"].model_copy(update={"dropout": 0.1})
    plain, compiled = (
        TorchBackend().build(
            config,
            ADAMW.model_copy(update={"eps": 1e-3}),
            StepConfig(device="cpu", compile=compiled, varying_length=True, gradient_checkpointing=again),
            rough_arrays(config),
            0,
        )
        for compiled in (False, True)
    )
    batches = [packed_batch(config, length=length) for length in (16, 24, 8)]
    for batch in (*batches[:2], some_batches(config).batch(1), batches[2]):
        losses = [float(trainer.step(batch, 1e-3)["loss_nats"]) for trainer in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    expected = plain.weights()
    for key, array in without_key_biases(compiled.weights()).items():
        np.testing.assert_allclose(array, expected[key], atol=2e-5, err_msg=key)


def test_weights_that_are_missing_are_refused() -> None:
    arrays = rough_arrays(MODELS["llama"])
    del arrays["norm.weight"]
    with pytest.raises(ValueError, match=r"norm\.weight is missing"):
        load_weights(make_model(MODELS["llama"], StepConfig(device="cpu"), torch.device("cpu")), arrays)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("norm.weight", (5,)),
        ("norm.weight", (1,)),
        ("nonsense", (3,)),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    arrays = rough_arrays(MODELS["llama"]) | {name: np.zeros(shape, dtype=np.float32)}
    with pytest.raises(ValueError):
        load_weights(make_model(MODELS["llama"], StepConfig(device="cpu"), torch.device("cpu")), arrays)
