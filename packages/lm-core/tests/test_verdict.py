"""What a run's validation losses say of it at its end."""

import math

import pytest

from lm_core.config import LoopConfig
from lm_core.run.state import RunState, verdict


def state(*losses: float) -> RunState:
    """State after a run in which each tenth step was evaluated."""
    made = RunState()
    for number, loss in enumerate(losses, 1):
        made.step = 10 * number
        made.evaluated(loss, LoopConfig(max_steps=100))
    return made


GUESS = math.log(1000)


@pytest.mark.parametrize("losses", [(), (GUESS / 2,), (GUESS, 4.0, 3.5), (GUESS, 4.0, 3.5, 3.51)])
def test_nothing_is_said_of_a_run_that_learns(losses: tuple[float, ...]) -> None:
    assert verdict(state(*losses), 1000) is None


@pytest.mark.parametrize("losses", [(GUESS,), (GUESS, GUESS - 0.01), (GUESS - 0.1, GUESS + 1)])
def test_one_that_is_no_better_than_a_guess_has_hardly_learned(losses: tuple[float, ...]) -> None:
    told = verdict(state(*losses), 1000)
    assert told
    assert "hardly learned yet (a guess among 1,000 tokens has 6.91 nats)" in told


def test_a_loss_that_rose_names_the_step_of_the_best() -> None:
    told = verdict(state(GUESS, 4.0, 3.5, 3.8), 1000)
    assert told
    assert told.startswith("the validation loss rose after step 30:")
