"""Figures of an evaluation, against plain loops: windows, bits per byte, accuracy, calibration, loss by position."""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.backend import Marks, Scorer
from lm_core.config import ModelConfig
from lm_core.data.batches import Batch, SequentialWindows
from lm_core.errors import NonFiniteError, UserError
from lm_core.model.init import initial_arrays
from lm_core.reference import model as reference
from lm_pipeline.evaluation.calibration import BINS, Calibration
from lm_pipeline.evaluation.continuations import score_continuations
from lm_pipeline.evaluation.evaluate import evaluate, windows_of
from lm_pipeline.evaluation.text import EvaluationText, read_texts
from lm_pipeline.evaluation.totals import Totals
from lm_pipeline.evaluation.windows import SlidingWindows, Window
from lm_pipeline.saved_model import SavedModel
from lm_pipeline.text.config import InputConfig
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import train_tokenizer

MODEL = ModelConfig(vocab_size=300, seq_len=8, d_model=8, n_layers=1, n_heads=1, positions="rope", init_std=0.5)
TEXT = "東京は夜の七時。 The fox 🦊 and a dog 🐕‍🦺 in 서울: naïve ✓"


class Exact:
    """A scorer that is the float64 reference, and does not round its nats."""

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.weights = config, initial_arrays(config, 0)

    def logits(self, ids: Any) -> Any:
        return reference.logits(self.config, self.weights, np.asarray(ids))

    def marks(self, batch: Batch) -> Marks:
        logits = reference.logits(self.config, self.weights, batch.inputs, batch.segments)
        nats, rank, confidence = reference.token_marks(logits, batch.targets)
        return Marks(cast("Any", nats), rank.astype(np.int32), cast("Any", confidence))


def some_marks(targets: int, seed: int = 0) -> Marks:
    """[2, targets / 2]"""
    draw, shape = np.random.default_rng(seed), (2, targets // 2)
    return Marks(
        draw.gamma(2, 2, shape).astype(np.float32),
        draw.integers(0, 9, shape, dtype=np.int32),
        draw.random(shape, dtype=np.float32),
    )


def figures(marks: Marks, counted: Any = None, text_bytes: int = 100) -> dict[str, Any]:
    totals = Totals(marks.nats.shape[1], np.ones(4, np.int64))
    targets = np.ones(marks.nats.shape, np.int32)
    totals.add(marks, Window(Batch(targets, targets), np.ones_like(targets, np.bool_) if counted is None else counted))
    return totals.figures(text_bytes)


# Windows


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 70))
def test_each_target_counts_once_and_has_its_context(
    tokens: int, length: int, stride: int, rows: int, limit: int
) -> None:
    stride = min(stride, length)
    seen: list[int] = []
    for window in SlidingWindows(np.arange(tokens), rows, length, stride, limit):
        batch = window.batch
        assert batch.inputs.shape[0] <= rows
        np.testing.assert_array_equal(batch.targets, batch.inputs + 1)
        seen += batch.targets[window.counted].tolist()
        context = np.broadcast_to(1 + np.arange(batch.inputs.shape[1]), batch.inputs.shape)[window.counted]
        first = batch.targets[window.counted] <= length
        assert (context[~first] > length - stride).all()
    assert seen == list(range(1, min(tokens, limit + 1 if limit else tokens)))


@pytest.mark.parametrize("tokens", [2, 8, 9, 40, 41, 47])
def test_windows_that_do_not_overlap_are_those_of_validation(tokens: int) -> None:
    ours = list(SlidingWindows(np.arange(tokens), 2, 8, 8))
    theirs = list(SequentialWindows(np.arange(tokens), 2, 8))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.batch.targets, other.targets)
        assert one.counted.all()


@pytest.mark.parametrize(
    ("tokens", "stride", "words"), [(1, 4, "no target"), (0, 4, "no target"), (9, 9, "1 to 8"), (9, 0, "1 to 8")]
)
def test_windows_without_targets_or_with_gaps_are_refused(tokens: int, stride: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        SlidingWindows(np.arange(tokens), 2, 8, stride)


# Bits


@pytest.mark.parametrize("stride", [8, 3])
def test_bits_per_byte_are_a_direct_count_also_where_tokens_are_parts_of_characters(
    stride: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """One target at a time, each from its own context alone; the ids of most characters here are single bytes."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    model, exact = SavedModel(MODEL, {}, tokenizer, "exact"), Exact(MODEL)
    text = read_texts([str(tmp_path / "text.txt")], InputConfig(), tokenizer)
    ids, bits = [int(i) for i in text.ids], 0.0
    assert ids == [tokenizer.eos_id, *tokenizer.encode(TEXT), tokenizer.eos_id]
    assert len(ids) > len(TEXT)
    for place in range(1, len(ids)):
        start = stride * -(-max(0, place - 8) // stride)
        row = exact.logits([ids[start:place]])[0, -1]
        bits -= math.log2(math.exp(row[ids[place]]) / sum(map(math.exp, row)))
    found = evaluate(cast("Scorer", exact), model, text, stride, 3)
    assert found["text_bytes"] == len(TEXT.encode())
    assert found["bits_per_byte"] == pytest.approx(bits / len(TEXT.encode()), abs=1e-9)
    by_ids = evaluate(cast("Scorer", exact), model, text, stride, 3, limit=len(ids) - 2)
    assert by_ids["text_bytes"] == len(TEXT.encode())  # as the ids tell it, without the end of the text


def test_without_an_end_of_text_the_first_token_is_context_and_its_bytes_do_not_count(tmp_path: Path) -> None:
    for name, text in (("a.txt", "東京 is"), ("b.txt", ""), ("c.txt", " far 🦊")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokenizer = train_tokenizer("characters", ["東京 is far 🦊"])
    text = read_texts([str(tmp_path)], InputConfig(), tokenizer)
    assert tokenizer.decode([int(i) for i in text.ids]) == "東京 is far 🦊"
    assert text.text_bytes == len("京 is far 🦊".encode())
    model = SavedModel(MODEL, {}, tokenizer, "exact")
    found = evaluate(cast("Scorer", Exact(MODEL)), model, text)
    assert (found["targets"], found["text_bytes"]) == (len("京 is far 🦊"), text.text_bytes)


@pytest.mark.parametrize("name", [".", "papers", "papers/*.md"])
def test_folders_and_patterns_below_the_current_folder_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("papers").mkdir()
    Path("papers/a.md").write_text("a text")
    tokenizer = train_tokenizer("characters", ["a text"])
    assert read_texts([name], InputConfig(), tokenizer).text_bytes == len(" text")


@pytest.mark.parametrize("text", [" The quick brown fox jumps over a lazy dog" * 9, "서울 ✓"], ids=["words", "bytes"])
def test_bits_per_byte_are_not_the_mean_of_bits_per_token_weighted_by_bytes(text: str, tokenizer: Tokenizer) -> None:
    """A model that has learned nothing takes log2 V bits for a token, however many bytes that has.

    The weighted mean is log2 V whatever the text: it has the unit of bits per token. What a byte costs is less by the
    bytes of a token, and the two are one only where every token is a byte.
    """
    ids = tokenizer.encode(text)
    lengths, bits = tokenizer.byte_lengths[ids], np.full(len(ids), math.log2(50_257))
    marks = Marks((bits[None] * math.log(2)).astype(np.float32), *(np.zeros((1, len(ids)), t) for t in "if"))
    totals = Totals(len(ids), tokenizer.byte_lengths)
    row = np.array([ids], np.int32)
    totals.add(marks, Window(Batch(row, row), np.ones_like(row, np.bool_)))
    weighted, found = float((bits * lengths).sum() / lengths.sum()), totals.figures()["bits_per_byte"]
    assert weighted == pytest.approx(math.log2(50_257))
    assert found == pytest.approx(math.log2(50_257) * len(ids) / len(text.encode()), rel=1e-6)
    assert found <= weighted + 1e-5
    assert (found < 8) == (len(ids) < len(text.encode()) / 2)


def test_within_documents_each_target_is_predicted_from_its_own_alone(tokenizer: Tokenizer) -> None:
    """By the reference on each context alone; a position is the number of its tokens."""
    end, model, exact = tokenizer.eos_id or 0, SavedModel(MODEL, {}, tokenizer, "exact"), Exact(MODEL)
    ids = [end, 5, 6, 7, end, end, *range(20, 31), end, 9]
    found = evaluate(cast("Scorer", exact), model, EvaluationText("", np.array(ids)), 8, 2, within_documents=True)
    nats: dict[int, list[float]] = {}
    for place in range(1, len(ids)):
        start = (place - 1) // 8 * 8
        ends = [i + 1 for i in range(start, place - 1) if ids[i] == end]
        context = ids[max([start, *ends]) : place]
        row = reference.token_losses(exact.logits([context])[:, -1], np.array([ids[place]]))
        nats.setdefault(len(context), []).append(float(row[0]))
    assert found["loss_nats"] == pytest.approx(sum(map(sum, nats.values())) / (len(ids) - 1), rel=1e-12)
    first = found["loss_by_position"][0]
    assert (first["targets"], first["loss_nats"]) == (len(nats[1]), pytest.approx(sum(nats[1]) / len(nats[1])))


def test_documents_that_nothing_ends_are_refused() -> None:
    tokenizer = train_tokenizer("characters", ["abc"])
    model, text = SavedModel(MODEL, {}, tokenizer, ""), EvaluationText("", np.arange(3))
    with pytest.raises(UserError, match="within_documents: the tokenizer has no end-of-text token"):
        windows_of(model, text, within_documents=True)


# Continuations


def test_a_continuation_costs_the_nats_of_its_tokens_after_as_much_context_as_fits() -> None:
    """By the reference on each alone; pairs of other lengths beside it change nothing."""
    draw, exact = np.random.default_rng(0), Exact(MODEL)
    lengths = [(1, 1), (3, 2), (7, 1), (30, 3), (2, 8), (1, 8), (8, 1)]
    pairs = [tuple(draw.integers(0, 300, n).tolist() for n in pair) for pair in lengths]
    context, best = [5, 6], []
    for _ in range(3):
        best.append(int(exact.logits([context + best])[0, -1].argmax()))
    found = score_continuations(cast("Scorer", exact), [*pairs, (context, best)], 8, batch_size=3)
    for (before, after), scored in zip(pairs, found, strict=False):
        row = [*before, *after][-9:]
        logits = exact.logits([row[:-1]])
        nats = reference.token_losses(logits, np.array([row[1:]]))[0, -len(after) :]
        assert scored.nats == pytest.approx(nats.sum(), rel=1e-12)
    assert [scored.greedy for scored in found] == [*[False] * len(pairs), True]


@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([1], [1] * 9)])
def test_a_pair_that_cannot_be_scored_is_named(pair: Any) -> None:
    with pytest.raises(UserError, match="pair 2 has"):
        score_continuations(cast("Scorer", Exact(MODEL)), [([1], [2]), pair], 8)


# The others


def test_figures_are_those_of_a_plain_loop() -> None:
    marks, counted = some_marks(40), np.random.default_rng(1).random((2, 20)) < 0.7
    marks.rank[0, 0] = 1
    found = figures(marks, counted)
    nats = [float(n) for n in marks.nats[counted]]
    ranks = marks.rank[counted].tolist()
    assert found["targets"] == len(nats)
    assert found["loss_nats"] == pytest.approx(sum(nats) / len(nats))
    assert found["bits_per_token"] == pytest.approx(sum(nats) / len(nats) / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)))
    assert found["accuracy"] == sum(r == 0 for r in ranks) / len(ranks)
    assert found["top5_accuracy"] == sum(r < 5 for r in ranks) / len(ranks)


def test_loss_by_position_is_the_mean_of_each_range_and_leaves_out_what_does_not_count() -> None:
    marks, counted = some_marks(40), np.ones((2, 20), np.bool_)
    counted[:, 3:7] = False
    rows = figures(marks, counted)["loss_by_position"]
    assert [(row["first"], row["last"], row["targets"]) for row in rows] == [
        (1, 1, 2), (2, 3, 4), (8, 15, 16), (16, 20, 10)
    ]  # fmt: skip
    for row in rows:
        inside = [
            float(marks.nats[b, t])
            for b in range(2)
            for t in range(20)
            if counted[b, t] and row["first"] <= t + 1 <= row["last"]
        ]
        assert row["loss_nats"] == pytest.approx(sum(inside) / len(inside))
    assert sum(row["loss_nats"] * row["targets"] for row in rows) == pytest.approx(marks.nats[counted].sum())


@given(st.lists(st.tuples(st.integers(1, 64).map(lambda n: n / 64), st.booleans()), min_size=1, max_size=20))
def test_the_calibration_error_is_the_weighted_gap_of_the_bins(targets: list[tuple[float, bool]]) -> None:
    calibration = Calibration()
    for part in (targets[:3], targets[3:]):
        calibration.add(np.array([c for c, _ in part], np.float32), np.array([r for _, r in part], np.bool_))
    expected = 0.0
    for b in range(BINS):
        inside = [(c, r) for c, r in targets if b / BINS < c <= (b + 1) / BINS]
        if inside:
            expected += abs(sum(r for _, r in inside) - sum(c for c, _ in inside)) / len(targets)
    assert calibration.error == pytest.approx(expected, abs=1e-9)
    rows = calibration.table()
    assert sum(row["targets"] for row in rows) == len(targets)
    assert all(row["above"] < row["confidence"] <= row["up_to"] + 1e-9 for row in rows)


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated_and_one_that_is_sure_and_wrong_is_not() -> None:
    draw, calibration, sure = np.random.default_rng(0), Calibration(), Calibration()
    confidence = draw.random(200_000)
    calibration.add(confidence, draw.random(200_000) < confidence)
    assert calibration.error < 0.01
    sure.add(np.ones(5), np.zeros(5, np.bool_))
    assert sure.error == 1
    assert sure.table() == [{"above": 14 / 15, "up_to": 1.0, "targets": 5, "confidence": 1.0, "accuracy": 0.0}]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(value: float) -> None:
    marks = some_marks(4)
    marks.nats[1, 0] = value
    with pytest.raises(NonFiniteError, match="a loss of"):
        figures(marks)
