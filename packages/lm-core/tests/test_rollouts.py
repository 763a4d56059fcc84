"""Rollouts over a model that is a table: what is sampled, how it is laid out, and what is reported."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.config import PolicyGradientConfig, SamplingConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.policy_gradient import Answers, token_weights
from lm_core.rollouts import Rollouts, Sampled, laid_out, sample
from lm_core.run.plan import SampledBatches

END, LETTERS = 5, 6
TABLE = np.random.default_rng(0).normal(size=(LETTERS, LETTERS))
"""Logits of the next id after each id."""


def log_probabilities(table: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = table - np.log(np.exp(table).sum(1, keepdims=True))
    return found


class TableDecoder:
    """A decoder whose logits depend on the last id alone, and which counts its rows at each step."""

    ids_per_call = 1

    def __init__(self, rows: int, table: NDArray[np.float64]):
        self.last, self.table, self.rows = [0] * rows, log_probabilities(table), list[int]()
        self.nats = np.zeros(rows, np.float32)

    def prefill(self, row: int, ids: Sequence[int], seen: object) -> None:
        self.last[row] = ids[-1]

    def keep(self, rows: Sequence[int]) -> None:
        self.last = [self.last[row] for row in rows]

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        assert sampling == SamplingConfig()
        [of_rows] = uniforms
        self.rows.append(len(of_rows))
        ids = [drawn_after(last, uniform) for last, uniform in zip(self.last, of_rows, strict=True)]
        self.nats = np.array([-self.table[i, j] for i, j in zip(self.last, ids, strict=True)], np.float32)
        self.last = ids
        return [ids]

    def last_nats(self) -> NDArray[np.float32]:
        return self.nats


def drawn_after(last: int, uniform: float) -> int:
    return int((np.exp(log_probabilities(TABLE)[last]).cumsum() <= uniform).sum())


class TableModel:
    """A trainer and scorer of a table, of which every call is noted."""

    def __init__(self, table: NDArray[np.float64] = TABLE, decoder_table: NDArray[np.float64] = TABLE):
        self.table, self.decoder_table, self.scored = table, decoder_table, 0

    def decoder(self, rows: int, vocab_size: int) -> TableDecoder:
        return TableDecoder(rows, self.decoder_table)

    def score(self, batch: Batch) -> NDArray[np.float32]:
        self.scored += 1
        return -log_probabilities(self.table)[batch.inputs, batch.targets].astype(np.float32)


class Problems:
    """Prompts of one to three ids; an answer is worth the share of its ids that are 2."""

    def __init__(self, worth: Callable[[Sequence[int]], float] = lambda ids: ids.count(2) / len(ids)):
        self.worth = worth

    def prompts(self, first: int, count: int) -> list[list[int]]:
        return [[(number + i) % 5 for i in range(1 + number % 3)] for number in range(first, first + count)]

    def rewards(self, first: int, answers: Sequence[Sequence[Sequence[int]]]) -> dict[str, NDArray[np.float64]]:
        worth = np.array([[self.worth(list(ids)) for ids in of_prompt] for of_prompt in answers])
        return {"reward": worth, "correct": (worth > 0.5).astype(float)}


def rollouts(trainer: Any = None, reference: Any = None, **more: Any) -> Rollouts:
    config = PolicyGradientConfig.model_validate({"group_size": 4, "updates": 2, **more.pop("config", {})})
    made = Rollouts(
        **{
            "problems": Problems(),
            "config": config,
            "groups": 3,
            "longest": 7,
            "end_id": END,
            "seq_len": 12,
            "vocab_size": LETTERS,
            "seed": 1,
            "reference": (lambda: reference) if reference else None,
            **more,
        }
    )
    return made.of(trainer or TableModel())


def test_each_answer_is_what_its_row_alone_would_draw_and_rows_that_have_ended_are_let_go() -> None:
    prompts, draws = [[0], [1, 2], [3, 0, 4]], np.random.default_rng(1).random((9, 48))
    decoder = TableDecoder(48, TABLE)
    found = sample(decoder, prompts, 16, 9, END, lambda position: draws[position])
    for row in range(48):
        last, ids, nats = prompts[row // 16][-1], list[int](), list[float]()
        while len(ids) < 9 and END not in ids:
            ids.append(drawn_after(last, draws[len(ids), row]))
            nats.append(-log_probabilities(TABLE)[last, ids[-1]])
            last = ids[-1]
        assert found.ids[row].tolist() == ids + [END] * (9 - len(ids))
        assert found.lengths[row] == len(ids)
        np.testing.assert_allclose(found.nats[row], nats + [0] * (9 - len(ids)), atol=1e-6)
    assert found.answers(16)[1][0] == found.ids[16, : found.lengths[16]].tolist()
    going = [(found.lengths > position).sum() for position in range(len(decoder.rows))]
    assert decoder.rows[0] == 48
    assert all(count <= held < max(count / 0.75, count + 1) for held, count in zip(decoder.rows, going, strict=True))


def test_only_what_was_sampled_is_a_target_with_a_weight() -> None:
    sampled = Sampled(np.array([[1, 2, END], [3, END, END]], np.int32), np.zeros((2, 3), np.float32), np.array([3, 2]))
    batch, mask = laid_out([[4, 4], [0]], sampled, END, 9)
    assert batch.inputs.shape == batch.targets.shape == mask.shape == (2, 8)
    assert batch.inputs[0, :5].tolist() == [4, 4, 1, 2, END]
    assert [row[kept].tolist() for row, kept in zip(batch.targets, mask, strict=True)] == [[1, 2, END], [3, END]]
    assert np.flatnonzero(mask[1]).tolist() == [0, 1]


def test_a_rollout_serves_its_updates_with_the_weights_of_the_policy_as_it_is_then() -> None:
    trainer = TableModel()
    batches = rollouts(trainer)
    assert isinstance(batches, SampledBatches)
    first = batches.batch(1)
    trainer.table = TABLE + 0.5 * np.eye(LETTERS)
    second = batches.batch(2)
    assert (first.targets == second.targets).all()
    mask = np.zeros(first.targets.shape, bool)
    mask[first.weights != 0] = True
    then, now = TableModel().score(first), trainer.score(first)
    assert first.weights is not None
    assert second.weights is not None
    ratio = np.exp(then - now)
    clipped = np.where(first.weights >= 0, ratio > 1.2, ratio < 0.8)
    np.testing.assert_allclose(second.weights, np.where(clipped, 0, ratio * first.weights), rtol=1e-5, atol=1e-6)
    assert batches.metrics(2)["clipped"] != 0 == batches.metrics(1)["kl"]
    assert batches.batch(3).targets.tobytes() != first.targets.tobytes(), "another rollout"


def test_a_rollout_depends_on_its_number_and_the_weights_alone() -> None:
    through, jumped = rollouts(), rollouts()
    for step in (1, 2, 3):
        batch = through.batch(step)
    again = jumped.batch(3)
    assert again.weights is not None
    assert batch.weights is not None
    assert (again.targets.tobytes(), again.weights.tobytes()) == (batch.targets.tobytes(), batch.weights.tobytes())
    parts = [rollouts().batch(3, rank, 2) for rank in (0, 1)]
    assert np.concatenate([part.targets for part in parts]).tobytes() == batch.targets.tobytes()
    assert rollouts(seed=2).batch(3).targets.tobytes() != batch.targets.tobytes()


def test_the_metrics_are_those_of_the_answers() -> None:
    shifted = TABLE + 0.1 * np.eye(LETTERS)
    batches = rollouts(TableModel(decoder_table=shifted), TableModel(shifted), clock=iter(range(100)).__next__)
    batch = batches.batch(1)
    found = batches.metrics(1)
    weighted = token_weights(batches.config, _answers(batches), 7)
    assert batch.weights is not None
    assert batch.weights.tobytes() == weighted.weights.tobytes()
    answers = _answers(batches)
    assert answers.reference is not None
    mask, now, then = answers.mask, answers.now, answers.reference
    assert found["reward"] == answers.rewards.mean()
    assert found["pass_at_1"] == (answers.rewards > 0.5).mean()
    assert found["rewards"] == {"correct": found["pass_at_1"]}
    assert found["answer_length"] == mask.sum(1).mean()
    assert found["entropy"] == pytest.approx((mask * now).sum(1).mean())
    assert found["kl"] == pytest.approx((mask * (then - now)).sum(1).mean())
    assert found["mismatch"] == pytest.approx(np.abs(then - now)[mask].max(), rel=1e-4)
    assert found["silent"] == (np.ptp(answers.rewards, axis=1) == 0).mean()
    assert (found["sampling_seconds"], found["sampling_share"]) == (1, pytest.approx(1 / 3))


def _answers(batches: Rollouts) -> Answers:
    assert batches._current
    return batches._current.answers


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_reward_that_never_varies_is_reported_after_the_first_rollout_once(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = rollouts(problems=Problems(lambda ids: value))
    for step in (1, 2, 3):
        batches.batch(step)
    assert capsys.readouterr().err.count(f"all 12 answers of the first rollout have the reward {value:g}") == 1
    rollouts().batch(1)
    assert capsys.readouterr().err == ""


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="the reward 'reward' of answer 1 to prompt 1 of the rollout is nan"):
        rollouts(problems=Problems(lambda ids: float("nan"))).batch(1)
    with pytest.raises(UserError, match=r"a prompt of 3 tokens and an answer of 7 do not fit into .* 9"):
        rollouts(seq_len=9).batch(1)
