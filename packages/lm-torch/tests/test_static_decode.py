"""The decoding step of fixed shapes draws what the eager decoder draws, and asks the host for nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from lm_core.config import SamplingConfig, StepConfig
from lm_core.sampling import Generation
from lm_core.testing import MODELS, rough_arrays
from lm_torch.decode import TorchDecoder
from lm_torch.model import LanguageModel
from lm_torch.sample import largest
from lm_torch.static_decode import StaticDecoder
from lm_torch.step import load_weights, make_model

GREEDY = SamplingConfig(temperature=0)
SAMPLED = SamplingConfig(temperature=0.8, top_k=12, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
PROMPTS = [[1, 2, 3], [4], list(range(20)), [5, 6], [7, 7, 7]]
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal"}
"""Operations whose result the host must see: a value, or a shape that depends on the data."""


def model(name: str, kernels: Any = "fused") -> LanguageModel:
    built = make_model(MODELS[name], StepConfig(kernels=kernels), torch.device("cpu"))
    load_weights(built, rough_arrays(MODELS[name]))
    return built


def texts(decoder: TorchDecoder, sampling: SamplingConfig) -> list[list[int]]:
    """Five rows of several lengths, past the window of 24; three of them end early, one after the other."""
    generation = Generation(decoder, PROMPTS, 24, 3, sampling)
    for position in range(40):
        generation.end({row for row, end in ((1, 7), (4, 9), (0, 30)) if end == position})
        generation.step()
    return generation.ids


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", MODELS)
def test_ids_are_those_of_the_eager_decoder(name: str, sampling: SamplingConfig) -> None:
    built = model(name)
    expected = texts(TorchDecoder(built, len(PROMPTS), 29), sampling)
    for ids_per_call in (1, 5):
        assert texts(StaticDecoder(built, len(PROMPTS), 29, ids_per_call=ids_per_call), sampling) == expected


def test_a_decoder_takes_a_second_text_and_another_sampling() -> None:
    built = model("llama")
    static, eager = StaticDecoder(built, ids_per_call=4), TorchDecoder(built)
    for sampling in (GREEDY, SAMPLED, SamplingConfig(), GREEDY):
        both = []
        for decoder in (static, eager):
            generation = Generation(decoder, [[3, 1]], 24, 0, sampling)
            both.append([generation.step()[0] for _ in range(30)])
        assert both[0] == both[1], sampling


class Watch(TorchDispatchMode):
    """Notes the operations that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in SYNCHRONISING:
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernels", ["fused", "scratch"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, SamplingConfig()], ids=["greedy", "filtered", "plain"])
def test_a_step_asks_the_host_for_nothing_and_stays_where_it_is(sampling: SamplingConfig, kernels: str) -> None:
    """What a CUDA graph needs: no waiting, and the same memory at every step."""
    decoder = StaticDecoder(model("gpt2", kernels), 2, ids_per_call=4)
    for row in range(2):
        decoder.prefill(row, [1, 2], {1, 2})
    state = [decoder.logits, decoder.positions, decoder.drawn, decoder.seen, *(c.k for c in decoder.caches)]
    addresses = [tensor.data_ptr() for tensor in state if tensor is not None]
    with Watch() as watch, torch.inference_mode():
        decoder._advance(2, sampling)
        decoder._advance(2, sampling)
    assert watch.waits == []
    state = [decoder.logits, decoder.positions, decoder.drawn, decoder.seen, *(c.k for c in decoder.caches)]
    assert [tensor.data_ptr() for tensor in state if tensor is not None] == addresses
    assert decoder.positions.tolist() == [4, 4]


def test_the_watch_sees_what_waits() -> None:
    with Watch() as watch:
        torch.ones(3).nonzero()
        bool(torch.ones(()) > 0)
    assert len(watch.waits) == 2


few_values = arrays(
    "float64", st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.sampled_from([-1, 0, 0.5, 2])
)


@given(few_values, st.integers(1, 13))
def test_the_largest_are_the_first_of_a_stable_sort(logits: NDArray[Any], count: int) -> None:
    """Ties by id, at the limit too."""
    values, ids = largest(torch.from_numpy(logits), count)
    for row, found, where in zip(logits, values.tolist(), ids.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:count]
        assert where == order
        assert found == [row[i] for i in order]
