"""Figures of answers: estimators against their definitions, intervals against published values, problems held out."""

from collections.abc import Collection, Sequence

import numpy as np
import pytest

from lm_core.config import SamplingConfig
from rlvr.answers import complete
from rlvr.evaluate import Answered, figures_of, held_out, mean_of
from rlvr.intervals import student, wilson
from rlvr.tasks.registry import mixture
from rlvr.tasks.reward import reward
from rlvr.tasks.task import split_of
from rlvr.vocabulary import END, encode


@pytest.mark.parametrize(
    ("right", "count", "interval"),
    [(0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (15, 148, (0.0624, 0.1605)), (81, 263, (0.2553, 0.3662))],
)
def test_wilson_s_interval_is_the_published_one(right: int, count: int, interval: tuple[float, float]) -> None:
    """Newcombe 1998, table I: cases (a) to (d) by the score method without continuity correction."""
    assert wilson(right / count, count) == pytest.approx(interval, abs=1e-4)


def test_student_s_interval_covers_the_mean_as_often_as_it_should() -> None:
    draw = np.random.default_rng(0)
    means = 0.5 + 0.05 * draw.standard_normal((2000, 5))
    covered = [low <= 0.5 <= high for low, high in map(student, means.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert student([0.3]) == (0.0, 1.0)


def test_figures_are_the_shares_of_right_answers_by_level_and_together() -> None:
    mixed = mixture(["add"], 1, 2, 24)
    answered = []
    for problem in held_out(mixed, 0, 3):
        wrong = f"0{END}" if problem.answer != "0" else f"1{END}"
        completions = [problem.solution + END, *[wrong] * 3] if problem.level == 1 else [wrong] * 4
        answered.append(Answered(problem, completions, [reward(problem, text) for text in completions]))
    easy, hard, both = figures_of(answered, 2)
    assert (easy["task"], easy["level"], easy["problems"]) == ("add", 1, 3)
    assert (easy["pass_at_1"], easy["pass_at_k"]) == pytest.approx((1 / 4, 1 / 2))
    assert (hard["pass_at_1"], hard["pass_at_k"], hard["format"]) == (0, 0, 1)
    assert (both["problems"], both["pass_at_1"]) == (6, pytest.approx(1 / 8))
    [mean] = mean_of([[easy], [hard]])
    assert mean["pass_at_1"] == pytest.approx(1 / 8)
    assert mean["pass_at_1_interval"] == pytest.approx([0, 1])  # of two runs


def test_problems_are_held_out_each_once_and_the_same_for_every_count() -> None:
    mixed = mixture(["add", "copy"], 1, 2, 24)
    few, many = held_out(mixed, 0, 5), held_out(mixed, 0, 40)
    assert [problem.level for problem in few] == [1] * 5 + [2] * 5 + [1] * 5 + [2] * 5
    assert {split_of(problem.question) for problem in many} == {"test"}
    assert len({problem.prompt for problem in many}) == len(many)
    easy = [problem.question for problem in many if problem.prompt.startswith("add") and problem.level == 1]
    assert len(easy) == sum(split_of(f"{a}+{b}") == "test" for a in range(10) for b in range(10)), "all that there are"
    assert easy[:5] == [problem.question for problem in few[:5]]


class Scripted:
    """A decoder that writes, after each prompt, the text of a script."""

    ids_per_call = 3

    def __init__(self, script: dict[str, str], seq_len: int, rows: int) -> None:
        self.script, self.seq_len, self.texts = {tuple(encode(k)): encode(v) for k, v in script.items()}, seq_len, []
        self.texts: list[list[int]] = [[]] * rows
        self.left: list[list[int]] = [[]] * rows

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        assert len(ids) <= self.seq_len
        self.texts[row], self.left[row] = list(ids), list(self.script[tuple(ids)])

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        drawn = [[left.pop(0) if left else 0 for left in self.left] for _ in uniforms]
        for texts in drawn:
            for row, chosen in enumerate(texts):
                self.texts[row] = [*self.texts[row], chosen]
        return drawn

    def room(self, row: int) -> int:
        return self.seq_len - len(self.texts[row])

    def keep(self, rows: Sequence[int]) -> None:
        self.texts, self.left = [self.texts[row] for row in rows], [self.left[row] for row in rows]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_completion_ends_at_its_end_or_where_the_context_is_full(rows: int) -> None:
    script = {"a=": f"b{END}", "c=": "dddddddddd", "longer=": f"{END}", "e=": f"ffffff{END}", "gg=": f"ffff{END}"}
    found = complete(lambda count: Scripted(script, 8, count), list(script), 8, 0, SamplingConfig(), rows)
    assert found == [f"b{END}", "dddddd", END, "ffffff", f"ffff{END}"]
