"""Noisy demonstrations: batches are functions of the step, and the loss is that of solution and end alone."""

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.rng import generator
from rlvr.demonstrations import Demonstrations, Noise, other
from rlvr.tasks.registry import mixture
from rlvr.tasks.reward import reward
from rlvr.tasks.task import Problem
from rlvr.vocabulary import END, END_ID, decode

CLEAN, SEQ_LEN = Noise(0, 0), 48


def demonstrations(noise: Noise = CLEAN, *names: str, batch_size: int = 8) -> Demonstrations:
    return Demonstrations(mixture(names or ("chainsteps", "sort"), 1, 3, SEQ_LEN), noise, batch_size, SEQ_LEN, seed=3)


def problem(made: Demonstrations, index: int) -> Problem:
    return made.mixture.problem(made.seed, index, "train")


def test_a_row_is_a_prompt_its_solution_and_ends_and_has_the_loss_of_solution_and_first_end() -> None:
    made = demonstrations()
    batch = made.batch(3)
    assert batch.weights is not None
    assert batch.weights.mean() == pytest.approx(1)
    for row in range(8):
        whole = decode([batch.inputs[row, 0], *batch.targets[row]])
        asked = problem(made, 16 + row)
        written = asked.prompt + asked.solution + END
        assert whole.startswith(written)
        assert set(batch.targets[row, len(asked.prompt + asked.solution) - 1 :]) == {END_ID}
        learned = batch.targets[row, batch.weights[row] > 0]
        assert decode(learned) == asked.solution + END
        assert len(set(batch.weights[batch.weights > 0])) == 1


def test_batches_do_not_depend_on_what_came_before_and_ranks_share_one() -> None:
    made = demonstrations(Noise(0.3, 0.2))
    whole, again = made.batch(5), demonstrations(Noise(0.3, 0.2)).batch(5)
    parts = [made.batch(5, rank, 4) for rank in range(4)]
    for name in ("inputs", "targets", "weights"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    assert made.shape(5) == whole.inputs.shape
    assert (made.batch(6).inputs != whole.inputs).any()


def test_noise_has_the_rates_that_it_is_given() -> None:
    made = demonstrations(Noise(0.25, 0.1), "chainsteps")
    right, steps, kept = 0, 0, 0
    for index in range(600):
        asked = problem(made, index)
        prompt, written = made.noise.demonstration(made.mixture, made.seed, index, "train", SEQ_LEN)
        assert prompt == asked.prompt
        right += asked.level == 1 and reward(asked, written + END)["correct"] == 1
        steps, kept = steps + asked.solution.count(";"), kept + written.count(";")
    of_level = sum(problem(made, index).level == 1 for index in range(600))
    assert right / of_level == pytest.approx(0.75, abs=0.1)
    assert kept / steps == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("text", ["42", "copy", "(3+4)*2", "-7"])
def test_a_slip_changes_one_character_to_another_of_its_kind(text: str) -> None:
    for seed in range(20):
        changed = other(generator(seed, "slip"), text)
        [(was, now)] = [(a, b) for a, b in zip(text, changed, strict=True) if a != b]
        assert [was.isdigit(), was.isalpha(), was in "()"] == [now.isdigit(), now.isalpha(), now in "()[]{}"]
        assert changed[0] == "-" or text != "-7", "the sign of a number stays"
    assert other(generator(0, "slip"), "?") == "?"


def test_a_demonstration_that_a_slip_makes_too_long_is_written_without() -> None:
    made = demonstrations(Noise(0.9, 0), "chain")
    for index in range(200):
        asked = problem(made, index)
        room = len(asked.prompt + asked.solution) + 1
        assert len("".join(made.noise.demonstration(made.mixture, made.seed, index, "train", room))) < room
    with pytest.raises(UserError, match="with its end, and the model reads 5: lower"):
        made.noise.demonstration(made.mixture, made.seed, 0, "train", 5)
