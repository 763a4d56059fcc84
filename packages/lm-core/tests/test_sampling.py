"""Sampling: the filter against a plain reading of its definition, and texts that a seed fixes."""

from collections.abc import Collection, Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lm_core.config import SamplingConfig
from lm_core.sampling import ROUNDING, Generation, filtered, generate, uniform

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
    top_p, min_p = config.top_p - ROUNDING if config.top_p < 1 else 2.0, config.min_p * (1 - ROUNDING)
    weights = [np.exp((x - max(logits)) / config.temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = ranked[: config.top_k] if config.top_k else ranked
    total = sum(weights[i] for i in kept)
    chosen, before, margin = [], 0.0, 1.0
    for i in kept:
        if chosen:
            margin = min(margin, abs(before - top_p), abs(weights[i] - min_p))
        if not chosen or (before < top_p and weights[i] >= min_p):
            chosen.append(i)
        before += weights[i] / total
    left = sum(weights[i] for i in chosen)
    return [weights[i] / left if i in chosen else 0.0 for i in range(len(logits))], margin


@given(logits_lists, samplings)
def test_the_filter_does_what_its_definition_says(logits: list[float], config: SamplingConfig) -> None:
    expected, margin = by_definition(logits, config)
    assume(margin > 1e-12)
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


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.data())
def test_a_sum_that_is_p_but_for_rounding_reaches_it(weights: list[int], data: st.DataObject) -> None:
    """Against exact fractions: the probabilities are float32 logarithms, and p is a sum of some of them."""
    logits = np.log(np.array(weights)).astype(np.float32)
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    count = data.draw(st.integers(1, len(weights) - 1))
    top_p = sum(weights[i] for i in order[:count]) / sum(weights)
    assert np.flatnonzero(filtered(logits, SamplingConfig(top_p=top_p))).tolist() == sorted(order[:count])
    above = filtered(logits, SamplingConfig(top_p=top_p + 1e-4))
    assert np.flatnonzero(above).tolist() == sorted(order[: count + 1])
    min_p = weights[order[count]] / weights[order[0]]
    alike = [i for i, weight in enumerate(weights) if weight >= weights[order[count]]]
    assert np.flatnonzero(filtered(logits, SamplingConfig(min_p=min_p))).tolist() == alike


@pytest.mark.parametrize("top_p", [1e-3, 1e-9, 1e-45, 1e-300])
def test_a_very_small_top_p_takes_the_likeliest(top_p: float) -> None:
    assert filtered(np.array([0.3, 0.5, 0.5]), SamplingConfig(top_p=top_p)).tolist() == [0, 1, 0]


def test_a_very_high_temperature_leaves_the_order_of_the_logits() -> None:
    hot = SamplingConfig(temperature=1e300, top_k=1)
    assert filtered(np.array([1.0, 3.0, 2.0]), hot).tolist() == [0, 1, 0]


def test_ids_that_are_ruled_out_by_an_infinite_logit_get_nothing() -> None:
    assert filtered(np.array([-np.inf, 0.0, -np.inf]), SamplingConfig()).tolist() == [0, 1, 0]


@pytest.mark.parametrize("temperature", [1e-6, 1e-300])
def test_a_tiny_temperature_is_as_good_as_zero(temperature: float) -> None:
    assert filtered(np.array([1.0, 30.0, 2.0]), SamplingConfig(temperature=temperature)).tolist() == [0, 1, 0]


@given(logits_lists, samplings, st.sets(st.integers(0, 11)), st.floats(0.2, 5))
def test_a_penalty_divides_positive_logits_of_seen_ids_and_multiplies_the_others(
    logits: list[float], config: SamplingConfig, ids: set[int], penalty: float
) -> None:
    seen = {i for i in ids if i < len(logits)}
    changed = [(x / penalty if x > 0 else x * penalty) if i in seen else x for i, x in enumerate(logits)]
    penalized = config.model_copy(update={"repetition_penalty": penalty})
    np.testing.assert_array_equal(filtered(np.array(logits), penalized, seen), filtered(np.array(changed), config))


def test_a_penalty_makes_what_was_said_less_likely_whatever_the_sign_of_its_logit() -> None:
    for logits in (np.array([3.0, 2.0, 1.0]), np.array([-1.0, -2.0, -3.0])):
        before = filtered(logits, SamplingConfig())
        after = filtered(logits, SamplingConfig(repetition_penalty=2.0), {0})
        assert after[0] < before[0]
        assert after[1] > before[1]
    greedy = SamplingConfig(temperature=0, repetition_penalty=2.0)
    assert np.argmax(filtered(np.array([3.0, 2.0, 1.0]), greedy, {0})) == 1


@given(logits_lists, samplings, st.sets(st.integers(0, 11)))
def test_a_penalty_of_one_changes_nothing(logits: list[float], config: SamplingConfig, ids: set[int]) -> None:
    given_logits = np.array(logits)
    seen = {i for i in ids if i < len(logits)}
    np.testing.assert_array_equal(filtered(given_logits, config, seen), filtered(given_logits, config))
    filtered(given_logits, config.model_copy(update={"repetition_penalty": 3.0}), seen)
    assert given_logits.tolist() == logits, "the logits that were given are left alone"


def test_uniforms_lie_in_the_unit_interval_and_depend_on_seed_and_position() -> None:
    draws = np.array([uniform(seed, position) for seed in range(40) for position in range(100)])
    assert ((draws >= 0) & (draws < 1)).all()
    assert len(set(draws)) == len(draws)
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(draws))


# Continuations


class Hashing:
    """A decoder whose next ids depend on every id that the row has read, and on its uniform."""

    def __init__(self, seq_len: int, rows: int = 1, ids_per_call: int = 1):
        self.seq_len, self.ids_per_call = seq_len, ids_per_call
        self.contexts: list[list[int]] = [[] for _ in range(rows)]
        self.reads: list[list[int]] = []
        self.seen: list[Collection[int]] = []
        self.asked = 0
        self.kept: list[list[int]] = []

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        assert 1 <= len(ids) <= self.seq_len
        self.contexts[row] = list(ids)
        self.reads.append(list(ids))
        self.seen.append(seen)

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        assert {len(of_rows) for of_rows in uniforms} == {len(self.contexts)}
        assert 1 <= len(uniforms) <= max(1, min(map(self.room, range(len(self.contexts)))))
        self.asked += 1
        return [[self._next_id(row, uniform) for row, uniform in enumerate(of_rows)] for of_rows in uniforms]

    def _next_id(self, row: int, uniform: float) -> int:
        chosen = hash((tuple(self.contexts[row]), round(uniform * 1e9))) % 1000
        if self.room(row):
            self.contexts[row].append(chosen)
        return chosen

    def room(self, row: int) -> int:
        return self.seq_len - len(self.contexts[row])

    def keep(self, rows: Sequence[int]) -> None:
        self.kept.append(list(rows))
        self.contexts = [self.contexts[row] for row in rows]


def continuation(
    prompt: Sequence[int], count: int, seq_len: int = 8, seed: int = 0, config: SamplingConfig | None = None
) -> tuple[list[int], Hashing]:
    decoder = Hashing(seq_len)
    return list(generate(decoder, prompt, count, seq_len, seed, config or SamplingConfig())), decoder


prompts = st.lists(st.integers(0, 99), min_size=1, max_size=30)


@given(prompts, st.integers(0, 30), st.integers(1, 12))
def test_there_are_as_many_ids_as_asked_for_and_each_is_drawn_once(prompt: list[int], count: int, seq_len: int) -> None:
    ids, decoder = continuation(prompt, count, seq_len)
    assert len(ids) == decoder.asked == count


@given(prompts, st.integers(0, 40), st.integers(0, 40))
def test_a_shorter_continuation_is_the_beginning_of_a_longer_one(prompt: list[int], short: int, more: int) -> None:
    assert continuation(prompt, short)[0] == continuation(prompt, short + more)[0][:short]


@given(prompts, st.integers(1, 40), st.integers(1, 12))
def test_the_decoder_always_reads_the_text_so_far_from_some_recent_place_on(
    prompt: list[int], count: int, seq_len: int
) -> None:
    ids, decoder = continuation(prompt, count, seq_len)
    text = prompt + ids
    assert decoder.reads[0] == prompt[-seq_len:]
    for read in decoder.reads[1:]:
        assert len(read) == min(max(1, seq_len // 2), len(text))
        assert any(text[i : i + len(read)] == read for i in range(len(text)))
    context = decoder.contexts[0]
    assert context in (text[-len(context) :], text[-len(context) - 1 : -1]), (
        "the last id is read only where there is room"
    )


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


def test_the_decoder_is_told_what_the_whole_text_holds_only_for_a_penalty() -> None:
    assert continuation(range(100), 12)[1].seen == [()] * 4
    ids, decoder = continuation(range(100), 12, config=SamplingConfig(repetition_penalty=1.1))
    text = [*range(100), *ids]
    assert decoder.seen == [set(text[:length]) for length in (100, 101, 105, 109)]


# Several rows

several = st.lists(prompts, min_size=1, max_size=4)


def generation(
    texts: Sequence[Sequence[int]], seq_len: int, seed: int = 0, ids_per_call: int = 1
) -> tuple[Generation, Hashing]:
    decoder = Hashing(seq_len, len(texts), ids_per_call)
    return Generation(decoder, texts, seq_len, seed, SamplingConfig()), decoder


@given(several, st.integers(0, 25), st.integers(1, 12), st.integers(0, 9), st.integers(1, 6), st.data())
def test_a_row_gets_what_it_would_get_alone_with_its_seed_whenever_the_others_end(
    texts: list[list[int]], count: int, seq_len: int, seed: int, ids_per_call: int, data: st.DataObject
) -> None:
    ends = [data.draw(st.integers(0, count)) for _ in texts]
    together, decoder = generation(texts, seq_len, seed, ids_per_call)
    for position in range(count):
        together.end({row for row, end in enumerate(ends) if end == position})
        active = [row for row, end in enumerate(ends) if end > position]
        assert together.active == active
        if not active:
            break
        assert list(together.step()) == active
        assert len(decoder.contexts) == len(active), "a row that has ended is not asked again"
    for row, (prompt, end) in enumerate(zip(texts, ends, strict=True)):
        assert together.ids[row] == [*prompt, *continuation(prompt, end, seq_len, seed + row)[0]]


def test_a_decoder_is_asked_for_as_many_ids_as_it_likes_and_has_room_for() -> None:
    together, decoder = generation([[1], [2, 3, 4]], 8, ids_per_call=4)
    asked = []
    for _ in range(9):
        together.step()
        asked.append(decoder.asked)
    assert asked == [1, 1, 1, 1, 2, 3, 3, 4, 4], (
        "4 ids; the 1 that the longer row has room for; 2 and 2 for the other's"
    )


def test_a_step_gives_each_active_row_its_new_id() -> None:
    together, _ = generation([[1], [2], [3]], 8)
    drawn = together.step()
    assert drawn == {row: together.ids[row][-1] for row in range(3)}
    assert [len(ids) for ids in together.ids] == [2, 2, 2]


def test_the_decoder_drops_ended_rows_by_their_place_among_those_left() -> None:
    together, decoder = generation([[1], [2], [3], [4]], 8)
    together.end({1})
    together.end({1})
    together.end(set())
    together.end({0, 3})
    assert together.active == [2]
    assert decoder.kept == [[0, 2, 3], [1]]
    together.end({2})
    assert together.active == []
    assert decoder.kept == [[0, 2, 3], [1]], "the last rows need not be dropped"


def test_the_prompts_are_left_alone() -> None:
    texts = [[1, 2], [3]]
    generation(texts, 8)[0].step()
    assert texts == [[1, 2], [3]]
