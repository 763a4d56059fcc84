"""Sampling: the filter against a plain reading of its definition, and texts that a seed fixes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lm_core.sampling import SamplingConfig, filtered, generate, uniform

logits_lists = st.lists(st.floats(-20, 20).map(lambda x: round(x, 3)), min_size=1, max_size=12)
samplings = st.builds(
    SamplingConfig,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)


def by_definition(logits: list[float], config: SamplingConfig) -> tuple[list[float], float]:
    """The probabilities, and how near a decision came to going the other way."""
    weights = [np.exp((x - max(logits)) / config.temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    kept = ranked[: config.top_k] if config.top_k else ranked
    total = sum(weights[i] for i in kept)
    chosen, before, margin = [], 0.0, 1.0
    for i in kept:
        if chosen:
            margin = min(margin, abs(before - config.top_p), abs(weights[i] - config.min_p))
        if not chosen or (before < config.top_p and weights[i] >= config.min_p):
            chosen.append(i)
        before += weights[i] / total
    left = sum(weights[i] for i in chosen)
    return [weights[i] / left if i in chosen else 0.0 for i in range(len(logits))], margin


@given(logits_lists, samplings)
def test_the_filter_does_what_its_definition_says(logits: list[float], config: SamplingConfig) -> None:
    expected, margin = by_definition(logits, config)
    assume(margin > 1e-9)
    np.testing.assert_allclose(filtered(np.array(logits), config), expected, rtol=1e-9, atol=1e-300)


@given(logits_lists, samplings)
def test_at_least_one_id_stays_the_likeliest_among_them_and_the_rest_sums_to_one(
    logits: list[float], config: SamplingConfig
) -> None:
    probabilities = filtered(np.array(logits), config)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[int(np.argmax(logits))] == probabilities.max() > 0
    if config.top_k:
        assert np.count_nonzero(probabilities) <= config.top_k


@given(logits_lists)
def test_without_filters_the_probabilities_are_the_softmax(logits: list[float]) -> None:
    exps = np.exp(np.array(logits) - max(logits))
    np.testing.assert_allclose(filtered(np.array(logits), SamplingConfig()), exps / exps.sum(), rtol=1e-12)


@given(logits_lists)
def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first(logits: list[float]) -> None:
    probabilities = filtered(np.array(logits), SamplingConfig(temperature=0))
    assert np.flatnonzero(probabilities).tolist() == [logits.index(max(logits))]


def test_ties_are_kept_in_the_order_of_their_ids() -> None:
    even = np.zeros(4)
    assert filtered(even, SamplingConfig(top_k=2)).tolist() == [0.5, 0.5, 0, 0]
    assert filtered(even, SamplingConfig(top_p=0.5)).tolist() == [0.5, 0.5, 0, 0]
    assert filtered(even, SamplingConfig(min_p=1.0)).tolist() == [0.25] * 4


def test_ids_that_are_ruled_out_by_an_infinite_logit_get_nothing() -> None:
    assert filtered(np.array([-np.inf, 0.0, -np.inf]), SamplingConfig()).tolist() == [0, 1, 0]


@pytest.mark.parametrize("temperature", [1e-6, 1e-300])
def test_a_tiny_temperature_is_as_good_as_zero(temperature: float) -> None:
    assert filtered(np.array([1.0, 30.0, 2.0]), SamplingConfig(temperature=temperature)).tolist() == [0, 1, 0]


def test_uniforms_lie_in_the_unit_interval_and_depend_on_seed_and_position() -> None:
    draws = np.array([uniform(seed, position) for seed in range(40) for position in range(100)])
    assert ((draws >= 0) & (draws < 1)).all()
    assert len(set(draws)) == len(draws)
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(draws))


# Continuations


class Hashing:
    """A decoder whose next id depends on every id it has read, and on the uniform."""

    def __init__(self, seq_len: int):
        self.seq_len = seq_len
        self.context: list[int] = []
        self.reads: list[list[int]] = []
        self.asked = 0

    def prefill(self, ids: list[int]) -> None:
        assert 1 <= len(ids) <= self.seq_len
        self.context = list(ids)
        self.reads.append(list(ids))

    def next_id(self, uniform: float, sampling: SamplingConfig) -> int:
        self.asked += 1
        chosen = hash((tuple(self.context), round(uniform * 1e9))) % 1000
        if self.room:
            self.context.append(chosen)
        return chosen

    @property
    def room(self) -> int:
        return self.seq_len - len(self.context)


def continuation(prompt: Sequence[int], count: int, seq_len: int = 8, seed: int = 0) -> tuple[list[int], Hashing]:
    decoder = Hashing(seq_len)
    return list(generate(decoder, prompt, count, seq_len, seed, SamplingConfig())), decoder


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 12))
def test_there_are_as_many_ids_as_asked_for_and_each_is_drawn_once(prompt: list[int], count: int, seq_len: int) -> None:
    ids, decoder = continuation(prompt, count, seq_len)
    assert len(ids) == decoder.asked == count


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_a_shorter_continuation_is_the_beginning_of_a_longer_one(prompt: list[int], short: int, more: int) -> None:
    assert continuation(prompt, short)[0] == continuation(prompt, short + more)[0][:short]


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(1, 40), st.integers(1, 12))
def test_the_decoder_always_reads_the_text_so_far_from_some_recent_place_on(
    prompt: list[int], count: int, seq_len: int
) -> None:
    ids, decoder = continuation(prompt, count, seq_len)
    text = prompt + ids
    assert decoder.reads[0] == prompt[-seq_len:]
    for read in decoder.reads[1:]:
        assert len(read) == min(max(1, seq_len // 2), len(text))
        assert any(text[i : i + len(read)] == read for i in range(len(text)))
    seen = decoder.context
    assert seen in (text[-len(seen) :], text[-len(seen) - 1 : -1]), "the last id is read only where there is room"


def test_a_long_prompt_is_cropped_to_its_end_and_past_the_context_the_last_half_is_read_again() -> None:
    ids, decoder = continuation(range(100), 12, seq_len=8)
    text = [*range(100), *ids]
    assert decoder.reads == [text[92:100], text[97:101], text[101:105], text[105:109]]


def test_the_seed_decides() -> None:
    assert continuation([1], 20, seed=1)[0] == continuation([1], 20, seed=1)[0]
    assert continuation([1], 20, seed=1)[0] != continuation([1], 20, seed=2)[0]


def test_ids_come_one_at_a_time() -> None:
    decoder = Hashing(8)
    stream = generate(decoder, [1], 10**9, 8, 0, SamplingConfig())
    next(stream)
    assert decoder.asked == 1
