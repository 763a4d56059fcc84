"""The study of a model: its numbers against sums spelled out, and the heads of a model that is made by hand."""

import re
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.backend import AttentionTotals
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.reference import model as reference
from lm_core.rng import generator
from lm_pipeline.inside import attention
from lm_pipeline.inside.ablation import ablation_costs, without_head
from lm_pipeline.inside.attention import AttentionSums
from lm_pipeline.inside.induction import induction_scores, repeated_sequences
from lm_pipeline.inside.map import head_map, label
from lm_pipeline.inside.page import distance_bins, first_and_second, write_page
from lm_pipeline.inside.study import Study, make_study
from lm_pipeline.inside.windows import first_tokens, windows

from .hand_made import CONFIG, SIZE, hand_made_weights
from .reference_scorer import ReferenceScorer

IDS = np.tile(np.array([3, 1, 4, 15, 9, 2, 6], np.int32), 20)


def drawn_weights(rows: int = 3, heads: int = 2, length: int = 7) -> Any:
    """Attention weights [B, N, T, T] of random scores."""
    scores = generator(0, "scores").standard_normal((rows, heads, length, length))
    return reference.softmax(np.where(np.tri(length, dtype=bool), scores, -np.inf))


@pytest.fixture(scope="module")
def study() -> Study:
    weights = hand_made_weights()
    scorer, batches = ReferenceScorer(CONFIG, weights), windows(IDS, CONFIG.seq_len, 128)
    return make_study(
        scorer, CONFIG, weights, batches, first_tokens(batches, 64), lambda ids: " ".join(f"t{i}" for i in ids)
    )


class Drawn:
    """A layer with weights that are given."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def attention_totals(self) -> AttentionTotals:
        return reference.attention_totals(self.weights)


def test_the_batches_in_which_rows_come_change_nothing() -> None:
    weights = drawn_weights()
    whole, parts = AttentionSums(1, 2, 7), AttentionSums(1, 2, 7)
    whole.add(0, Drawn(weights), 3)  # type: ignore[arg-type]
    for rows in (weights[:1], weights[1:]):
        parts.add(0, Drawn(rows), len(rows))  # type: ignore[arg-type]
    results = whole.results()
    for key, values in parts.results().items():
        np.testing.assert_allclose(values, results[key], rtol=1e-12, err_msg=key)
    np.testing.assert_allclose(results["distance"].sum(axis=-1), 1, rtol=1e-12)
    times = np.arange(1, 7)
    np.testing.assert_allclose(
        results["previous_token"][0], weights[:, :, times, times - 1].mean(axis=(0, 2)), rtol=1e-12
    )
    np.testing.assert_allclose(results["first_token"][0], weights[:, :, 1:, 0].mean(axis=(0, 2)), rtol=1e-12)


def test_memory_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the batches, each read by the model and the lens: the peak of what is allocated stays."""
    monkeypatch.setattr("lm_pipeline.inside.windows.TOKENS", 64)

    def peak(tokens: int) -> int:
        weights = hand_made_weights()
        batches = windows(np.resize(IDS, tokens + 1), CONFIG.seq_len, tokens)
        assert len(batches) == tokens // 64
        tracemalloc.start()
        try:
            make_study(ReferenceScorer(CONFIG, weights), CONFIG, weights, batches, batches[:1], str)  # type: ignore[arg-type]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(64)  # what is allocated once for all
    assert peak(1024) < 1.02 * peak(128)


@pytest.mark.parametrize(("rows", "length", "count"), [(1, 1024, 4), (4, 1024, 1), (8, 128, 12), (1, 4096, 1)])
def test_no_more_weights_are_held_than_fit_or_those_of_one_head(rows: int, length: int, count: int) -> None:
    asked = []

    class Asked:
        def attention(self, heads: slice) -> None:
            asked.extend([heads.stop - heads.start])

    for _ in attention.some_heads(Asked(), 12, (rows, length)):  # type: ignore[arg-type]
        pass
    assert max(asked) == count
    assert sum(asked) == 12


def test_windows_are_the_text_once_and_a_part_of_them_the_first() -> None:
    batches = windows(IDS, 16, 10_000)
    assert np.concatenate([batch.inputs.ravel() for batch in batches]).tolist() == IDS[:128].tolist()
    assert np.concatenate([batch.targets.ravel() for batch in batches]).tolist() == IDS[1:129].tolist()
    assert [batch.inputs.shape for batch in windows(IDS, 1000, 1)] == [(1, 139)]
    assert [batch.inputs.shape for batch in first_tokens(batches, 40)] == [(2, 16)]
    with pytest.raises(UserError, match="2 tokens, and a study needs 3"):
        windows(IDS[:2], 16, 10)


def test_repeated_sequences_have_different_ids_twice_and_none_that_is_left_out() -> None:
    batch = repeated_sequences(20, 17, seed=1, left_out={0, 19}, rows=5)
    assert batch.inputs.shape == (5, 16)
    assert (batch.inputs[:, :8] == batch.inputs[:, 8:]).all()
    assert all(len({*row} - {0, 19}) == 8 for row in batch.inputs.tolist())
    assert (batch.targets[:, :-1] == batch.inputs[:, 1:]).all()
    assert (repeated_sequences(20, 17, seed=2).inputs != repeated_sequences(20, 17, seed=1).inputs).any()
    assert repeated_sequences(6, 64, left_out={0}).inputs.shape[1] == 10, "of five ids, no more than five differ"
    with pytest.raises(UserError, match="no room to repeat"):
        repeated_sequences(20, 3)


def test_the_induction_score_is_1_where_every_query_finds_what_followed() -> None:
    weights = np.zeros((2, 2, 6, 6))
    weights[:, 0, [3, 4, 5], [1, 2, 3]] = 1
    weights[:, 1] = np.tri(6) / np.arange(1, 7)[:, None]
    np.testing.assert_allclose(induction_scores(weights), [1, (1 / 4 + 1 / 5 + 1 / 6) / 3], rtol=1e-12)


def test_a_model_without_a_head_is_the_one_whose_head_is_not_added(study: Study) -> None:
    """The output of attention without the head's values, spelled out; only the one projection is another array."""
    weights = hand_made_weights()
    without = without_head(CONFIG, weights, 1, 0)
    assert [name for name in weights if without[name] is not weights[name]] == ["blocks.1.attn.o_proj.weight"]
    silent = {**weights, "blocks.1.attn.v_proj.weight": weights["blocks.1.attn.v_proj.weight"].copy()}
    silent["blocks.1.attn.v_proj.weight"][: CONFIG.head_dim] = 0
    batch = windows(IDS, SIZE, 32)[0]
    expected, loss = (reference.score(CONFIG, w, batch.inputs, batch.targets) for w in (silent, weights))
    scorer = ReferenceScorer(CONFIG, weights)
    costs = ablation_costs(scorer, CONFIG, weights, [batch])  # type: ignore[arg-type]
    assert costs[1, 0] == pytest.approx(expected.mean() - loss.mean(), abs=1e-6)
    assert scorer.held is weights
    np.testing.assert_allclose(costs[:, 1], 0, atol=1e-6)


def test_the_induction_head_of_a_model_made_by_hand_stands_out(study: Study) -> None:
    """And the head that it builds on, which looks one token back; without either the loss rises."""
    assert study.induction[1, 0] > 0.9
    assert np.delete(study.induction.ravel(), 2).max() < 0.2
    assert study.previous_token[0, 0] > 0.99
    assert np.delete(study.previous_token.ravel(), 0).max() < 0.2
    first, second = first_and_second(study)
    assert first > 3
    assert second < 0.3
    assert (study.ablation[:, 0] > 0.5).all()
    np.testing.assert_allclose(study.ablation[:, 1], 0, atol=1e-6)
    period = len(study.repeat_tokens) // 2
    assert study.text_tokens.tolist() == study.text.split() == [f"t{i}" for i in IDS[:SIZE]]
    stripe = study.repeat_maps[1, 0, np.arange(period + 1, 2 * period), np.arange(2, period + 1)]
    np.testing.assert_allclose(stripe, 1, atol=1e-3)


def test_a_model_that_has_diverged_is_named() -> None:
    weights = hand_made_weights()
    weights["blocks.0.mlp.down_proj.weight"][0, 0] = np.nan
    scorer, batches = ReferenceScorer(CONFIG, weights), windows(IDS, CONFIG.seq_len, 32)
    with pytest.raises(UserError, match="loss is not a number"):
        make_study(scorer, CONFIG, weights, batches, [], str)  # type: ignore[arg-type]


def test_the_lens_of_the_last_layer_is_the_model_s_own(study: Study) -> None:
    losses = [reference.score(CONFIG, hand_made_weights(), b.inputs, b.targets) for b in windows(IDS, SIZE, 128)]
    assert study.lens_loss_nats[-1] == pytest.approx(np.concatenate(losses).mean(), abs=1e-5)
    assert study.lens_loss_nats[0] == pytest.approx(np.log(SIZE), abs=1e-5), "nothing is written there to come"
    assert study.lens_agreement[-1] == 1


def test_a_file_of_a_study_has_every_array_and_no_pickle(study: Study, tmp_path: Path) -> None:
    study.save(tmp_path / "a.npz")
    again = Study.load(tmp_path / "a.npz")
    for field in fields(Study):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(study, field.name))


def test_the_page_loads_nothing_and_names_the_heads(study: Study, tmp_path: Path, drawn: None) -> None:
    paths = [tmp_path / name for name in ("a.html", "b.html")]
    for path in paths:
        write_page(path, study, "a<b")
    text = paths[0].read_text(encoding="utf-8")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "<h1>a&lt;b</h1>" in text
    assert "largest is 0.9" in text
    assert text.count("data:image/svg+xml") == 6 + 1 + 2 + 1
    assert text.count('alt="attention of head') == 4
    assert "http" not in text.replace("http://www.w3.org/", "")


def test_the_page_names_the_part_of_the_text_that_the_lens_is_of(study: Study, tmp_path: Path) -> None:
    def parts(lens_tokens: int) -> int:
        write_page(tmp_path / "a.html", replace(study, lens_tokens=lens_tokens), "a")
        return (tmp_path / "a.html").read_text(encoding="utf-8").count(", first 64 tokens")

    assert (parts(64), parts(study.tokens)) == (2, 0)


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" the", "␣the"), ("\n\t", "⏎⇥"), ("\x1b[0m", "\\x1b[0m"), ("a" * 11, "a" * 9 + "…"), ("a" * 10, "a" * 10)],
)
def test_a_label_shows_spaces_and_is_short(token: str, shown: str) -> None:
    assert label(token) == shown


def test_a_map_has_room_for_its_labels_and_escapes_them() -> None:
    """A wide character takes twice the room of a narrow one."""
    sides = [
        float(re.findall(r'<image x="(\d+)"', head_map(np.eye(2), [token, "<"], "a & b"))[0])
        for token in ("ab", "東京")
    ]
    assert sides[1] - sides[0] == 14
    assert ">&lt;</text>" in head_map(np.eye(2), ["a", "<"], "a & b")
    assert 'aria-label="a &amp; b"' in head_map(np.eye(2), ["a", "<"], "a & b")


def test_bins_of_distances_double_and_keep_the_sum() -> None:
    share, edges = distance_bins(np.full((2, 11), 1 / 11))
    assert edges == [0, 1, 2, 4, 8, 11]
    np.testing.assert_allclose(share[0] * 11, [1, 1, 2, 4, 3])
    assert distance_bins(np.ones((1, 8)))[1] == [0, 1, 2, 4, 8]


def test_the_lens_is_of_the_batches_that_it_is_asked_for() -> None:
    weights = hand_made_weights()
    scorer, batches = ReferenceScorer(CONFIG, weights), windows(IDS, CONFIG.seq_len, 128)
    parts = [Batch(batches[0].inputs[i : i + 1], batches[0].targets[i : i + 1]) for i in range(4)]
    some, first = (
        make_study(scorer, CONFIG, weights, given, [], str, lens_tokens=SIZE + 1)  # type: ignore[arg-type]
        for given in (parts, parts[:2])
    )
    assert (some.tokens, some.lens_tokens) == (4 * SIZE, 2 * SIZE)
    assert (first.tokens, first.lens_tokens) == (2 * SIZE, 2 * SIZE)
    np.testing.assert_array_equal(some.lens_loss_nats, first.lens_loss_nats)
