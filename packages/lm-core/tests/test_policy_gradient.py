"""Estimators against the exact gradient, by enumeration of all answers of three letters out of four.

The policy is a table: logits of the next letter after each beginning, so that its gradient is written down at once.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lm_core.config import Estimator, PolicyGradientConfig
from lm_core.errors import UserError
from lm_core.policy_gradient import Answers, advantages, pass_at, token_weights

Array = NDArray[np.float64]
LETTERS, LENGTH = 4, 3
ANSWERS = np.array(list(itertools.product(range(LETTERS), repeat=LENGTH)))  # [64, 3]
BEGINNINGS = 1 + LETTERS + LETTERS**2
UNBIASED: tuple[Estimator, ...] = ("reinforce", "rloo")


def states(answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the beginning in front of each letter, [N, 3]."""
    first = np.zeros(len(answers), np.int64)
    return np.stack([first, 1 + answers[:, 0], 1 + LETTERS + LETTERS * answers[:, 0] + answers[:, 1]], 1)


def log_probabilities(theta: Array) -> Array:
    return theta - np.log(np.exp(theta).sum(1, keepdims=True))


def nats(theta: Array) -> Array:
    """Of each letter of each answer, [64, 3]."""
    return -log_probabilities(theta)[states(ANSWERS), ANSWERS]


def gradient(theta: Array, weights: Array) -> Array:
    """Of sum over answers and letters of weight x nats, [beginnings, letters]."""
    found = np.zeros_like(theta)
    chances = np.exp(log_probabilities(theta))
    for places, letters, factors in zip(states(ANSWERS), ANSWERS, weights, strict=True):
        for place, letter, factor in zip(places, letters, factors, strict=True):
            found[place] += factor * chances[place]
            found[place, letter] -= factor
    return found


def policy(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(BEGINNINGS, LETTERS))


def expected(config: PolicyGradientConfig, theta: Array, rewards: Array, **more: Array) -> Array:
    """The estimator's gradient, expected over all pairs of answers: a group of two, which is the batch."""
    chance = np.exp(-nats(theta).sum(1))
    total = np.zeros((len(ANSWERS), LENGTH))
    for i, j in itertools.product(range(len(ANSWERS)), repeat=2):
        pair = [i, j]
        answers = Answers(
            rewards[pair][None], np.ones((2, LENGTH), bool), nats(theta)[pair], **{k: v[pair] for k, v in more.items()}
        )
        weights = token_weights(config, answers, LENGTH).weights.astype(np.float64)
        for row, answer in enumerate(pair):  # the loss divides by B x T
            total[answer] += chance[i] * chance[j] * weights[row] / (2 * LENGTH)
    return gradient(theta, total)


def exact(theta: Array, value: Array) -> Array:
    """- grad of sum over answers of pi x value, the value held fixed."""
    chance = np.exp(-nats(theta).sum(1))
    return gradient(theta, np.repeat((chance * value)[:, None], LENGTH, 1))


REWARDS = np.random.default_rng(7).integers(0, 3, len(ANSWERS)).astype(float)


@pytest.mark.parametrize("estimator", UNBIASED)
def test_the_expected_gradient_is_the_exact_one(estimator: Estimator) -> None:
    theta = policy(0)
    config = PolicyGradientConfig(estimator=estimator, group_size=2)
    np.testing.assert_allclose(expected(config, theta, REWARDS), exact(theta, REWARDS), atol=1e-6)


def test_dr_grpo_is_a_fraction_of_the_exact_gradient() -> None:
    theta, config = policy(1), PolicyGradientConfig(estimator="dr_grpo", group_size=2)
    np.testing.assert_allclose(expected(config, theta, REWARDS), exact(theta, REWARDS) / 2 / LENGTH, atol=1e-6)


def test_grpo_divides_by_what_it_sampled_and_is_biased() -> None:
    theta, config = policy(2), PolicyGradientConfig(estimator="grpo", group_size=2)
    found, right = expected(config, theta, REWARDS), exact(theta, REWARDS)
    factor = (found * right).sum() / (right * right).sum()
    assert factor > 0
    assert np.abs(found - factor * right).max() > 0.05 * np.abs(found).max()


@pytest.mark.parametrize("estimator", UNBIASED)
def test_entropy_and_divergence_in_the_reward_have_their_exact_gradients(estimator: Estimator) -> None:
    theta, reference = policy(3), policy(4)
    config = PolicyGradientConfig(estimator=estimator, group_size=2, kl=0.3, entropy=0.2)
    found = expected(config, theta, REWARDS, reference=nats(reference))
    h = 1e-6
    numeric = np.zeros_like(theta)

    def objective(theta: Array) -> float:
        ours, theirs = nats(theta).sum(1), nats(reference).sum(1)
        return float((np.exp(-ours) * (REWARDS - 0.3 * (theirs - ours) + 0.2 * ours)).sum())

    for place in np.ndindex(*theta.shape):
        up, down = theta.copy(), theta.copy()
        up[place] += h
        down[place] -= h
        numeric[place] = -(objective(up) - objective(down)) / (2 * h)
    np.testing.assert_allclose(found, numeric, atol=1e-6)


def test_the_divergence_in_the_loss_has_the_gradient_of_its_own_estimate() -> None:
    theta, reference = policy(5), policy(6)
    config = PolicyGradientConfig(estimator="reinforce", group_size=1, kl=0.5, kl_in="loss")
    answers = Answers(np.zeros((64, 1)), np.ones((64, 3), bool), nats(theta), reference=nats(reference))
    found = gradient(theta, token_weights(config, answers, LENGTH).weights.astype(np.float64) / (64 * LENGTH))

    def estimate(theta: Array) -> float:
        d = nats(theta) - nats(reference)
        return 0.5 * float((np.exp(d) - d - 1).sum(1).mean())

    up, down = theta.copy(), theta.copy()
    up[2, 1] += 1e-6
    down[2, 1] -= 1e-6
    assert found[2, 1] == pytest.approx((estimate(up) - estimate(down)) / 2e-6, abs=1e-7)


def test_the_clipped_objective_has_its_gradient_and_none_where_it_is_flat() -> None:
    then, now = policy(8), policy(8) + 0.3 * policy(9)
    config = PolicyGradientConfig(estimator="reinforce", group_size=1, clip_low=0.1, clip_high=0.2)
    answers = Answers(REWARDS[:, None], np.ones((64, 3), bool), nats(now), then=nats(then))
    made = token_weights(config, answers, LENGTH)
    found = gradient(now, made.weights.astype(np.float64) / (64 * LENGTH))
    gains = advantages(REWARDS[:, None], "reinforce")

    def loss(theta: Array) -> float:
        ratio = np.exp(nats(then) - nats(theta))
        return -float(np.minimum(ratio * gains, np.clip(ratio, 0.9, 1.2) * gains).sum(1).mean())

    for place in [(0, 0), (3, 2), (9, 1)]:
        up, down = now.copy(), now.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        assert found[place] == pytest.approx((loss(up) - loss(down)) / 2e-6, abs=1e-6)
    assert 0 < made.clipped < 1
    assert made.clipped == pytest.approx((made.weights == 0).mean())


def test_grpo_pays_short_right_answers_and_long_wrong_ones() -> None:
    """What all tokens of an answer weigh together, right (+1) and wrong (-1) answers of 1 and of 3 tokens."""
    mask = np.array([[1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]], bool)
    answers = Answers(np.array([[1.0, 1.0, 0.0, 0.0]]), mask, np.ones((4, 3)))

    def per_token(estimator: Estimator) -> Array:
        made = token_weights(PolicyGradientConfig(estimator=estimator, group_size=4), answers, LENGTH).weights
        return made[:, 0].astype(np.float64)

    assert per_token("grpo")[0] == pytest.approx(3 * per_token("grpo")[1])  # a short right answer is pulled harder
    assert per_token("grpo")[2] == pytest.approx(3 * per_token("grpo")[3])  # a long wrong one is pushed less
    for fair in ("rloo", "dr_grpo", "reinforce"):
        assert per_token(fair)[0] == pytest.approx(per_token(fair)[1])
        assert per_token(fair)[2] == pytest.approx(per_token(fair)[3])


def test_prompts_and_what_lies_behind_the_end_weigh_nothing_and_silent_groups_are_counted() -> None:
    mask = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1]], bool)
    answers = Answers(np.array([[1.0, 0.0], [1.0, 1.0]]), mask, np.full((4, 3), 0.5), reference=np.full((4, 3), 0.7))
    made = token_weights(PolicyGradientConfig(group_size=2), answers, LENGTH)
    assert not made.weights[~mask].any()
    assert not made.weights[2:].any()
    assert made.silent == 0.5
    assert made.entropy == pytest.approx(0.5 * 7 / 4)
    assert made.kl == pytest.approx(0.2 * 7 / 4)


def test_rejection_is_supervised_training_on_the_answers_that_are_right() -> None:
    """The loss is their mean per token, also in later steps on the same answers, and nothing where none is right."""
    mask = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1]], bool)
    now, then = np.random.default_rng(0).random((2, 4, 3))
    config = PolicyGradientConfig(estimator="rejection", group_size=2)
    made = token_weights(config, Answers(np.array([[1.0, 0.2], [0.9, 1.1]]), mask, now, then), LENGTH)
    right = mask & np.array([[True], [False], [False], [True]])
    assert (made.weights * now).mean() == pytest.approx(now[right].mean())
    assert not made.weights[~right].any()
    none = token_weights(config, Answers(np.zeros((2, 2)), mask, now, then), LENGTH)
    assert not none.weights.any()


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    subsets = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    [found] = pass_at(k, samples, np.array([right]))
    assert found == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert found == pytest.approx(1 - math.comb(samples - right, k) / math.comb(samples, k))


def test_a_group_of_one_is_refused_where_it_leaves_nothing_to_compare() -> None:
    for estimator in ("rloo", "grpo", "dr_grpo"):
        with pytest.raises(UserError, match="group_size 1"):
            PolicyGradientConfig.parse({"estimator": estimator, "group_size": 1}, "policy_gradient")
    PolicyGradientConfig(estimator="reinforce", group_size=1)
