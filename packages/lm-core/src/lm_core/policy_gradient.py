"""Policy gradients as weights of the cross-entropy (`Batch.weights`), so that any backend's step takes them.

    rewards [G, K] --advantages--> A [G, K] --token_weights, with nats [B, T]--> weights [B, T] --trainer.step-->

The loss of a batch is the mean over its B x T targets of weight x nats, and nats are - log pi. So the weights

    w = (T / n) ratio A [not clipped],    ratio = pi / pi_then

give it the gradient of - 1/B sum over answers of 1/n sum over tokens of min(ratio A, clip(ratio) A), where n is what an
estimator divides an answer by. The ratio is a constant within a step: its own gradient is ratio x grad log pi.

Sources: REINFORCE, Williams 1992; the leave-one-out baseline, Kool et al. 2019 and Ahmadian et al. 2024 (RLOO); GRPO,
Shao et al. 2024 (DeepSeekMath, equations 3 and 4); without its two divisions, Liu et al. 2025 (Dr. GRPO); clipping,
Schulman et al. 2017 (PPO, equation 7), with two bounds, Yu et al. 2025 (DAPO).

Axes: G prompts, K answers of each, B = G x K rows, T targets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import Estimator, PolicyGradientConfig

Array = NDArray[np.float64]
_EPS = 1e-6
"""Added to a group's standard deviation."""


def advantages(rewards: NDArray[np.floating[Any]], estimator: Estimator) -> Array:
    """Advantages of answers over what was to be expected, [G, K] -> [G, K].

    reinforce   r - mean of all other rewards of the batch
    rloo        r - mean of the other rewards of the group
    grpo        (r - mean of the group) / (standard deviation of the group + 1e-6), over its K answers
    dr_grpo     r - mean of the group: (K - 1) / K of rloo
    rejection   1 where r >= 1, else 0: these answers are imitated

    The baselines of reinforce and rloo do not depend on the answer itself, so they add no bias.
    """
    r: Array = rewards.astype(np.float64)
    match estimator:
        case "reinforce":
            found: Array = r - (r.sum() - r) / max(r.size - 1, 1)
        case "rloo":
            found = r - (r.sum(1, keepdims=True) - r) / (r.shape[1] - 1)
        case "grpo":
            found = (r - r.mean(1, keepdims=True)) / (r.std(1, keepdims=True) + _EPS)
        case "dr_grpo":
            found = r - r.mean(1, keepdims=True)
        case "rejection":
            found = (r >= 1).astype(np.float64)
    return found


@dataclass(frozen=True)
class Answers:
    """A batch of sampled answers, as the policies score them."""

    rewards: NDArray[np.floating[Any]]
    """[G, K], of the checker."""
    mask: NDArray[np.bool_]
    """[B, T], the targets that were sampled: not the prompt, nor what lies behind the end."""
    now: NDArray[np.floating[Any]]
    """[B, T], nats of the policy that is to be improved."""
    then: NDArray[np.floating[Any]] | None = None
    """[B, T], nats of the policy that sampled; None: it is the same."""
    reference: NDArray[np.floating[Any]] | None = None
    """[B, T], nats of the reference policy; None: it does not matter."""


@dataclass(frozen=True)
class Weighted:
    """Weights of a batch, and what they came from."""

    weights: NDArray[np.float32]
    """[B, T]."""
    advantages: Array
    """[G, K]."""
    clipped: float
    """Share of the sampled targets whose ratio was clipped."""
    kl: float
    """Estimate of the divergence from the reference, in nats per answer; 0 without one."""
    entropy: float
    """Estimate of the policy's entropy, in nats per answer."""
    silent: float
    """Share of the groups whose rewards are all the same, from which nothing is learned but by `kl` and `entropy`."""


def token_weights(config: PolicyGradientConfig, answers: Answers, longest: int) -> Weighted:
    """Weights that make the cross-entropy's gradient that of the objective, to be minimized.

    Args:
        config: the estimator.
        answers: of one batch; what `config` weighs must be there.
        longest: number of tokens that an answer may have: what dr_grpo divides by.
    """
    mask, now = answers.mask, answers.now.astype(np.float64)
    then = now if answers.then is None else answers.then.astype(np.float64)
    sampled = (mask * then).sum(1)  # nats of whole answers, of the policy that sampled them
    distance = np.zeros_like(sampled)
    if answers.reference is not None:
        distance = (mask * (answers.reference - then)).sum(1)
    shape = answers.rewards.shape
    shaped = answers.rewards + config.entropy * sampled.reshape(shape)
    if config.kl_in == "reward":
        shaped = shaped - config.kl * distance.reshape(shape)
    found = advantages(shaped, config.estimator)

    ratio = np.ones_like(now) if config.estimator == "rejection" else np.exp(then - now)
    of_answer = found.reshape(-1, 1)
    outside = np.where(of_answer >= 0, ratio > 1 + config.clip_high, ratio < 1 - config.clip_low) & mask
    weights = np.where(outside, 0.0, ratio * of_answer)
    if config.kl and config.kl_in == "loss" and answers.reference is not None:
        # of KL's estimate exp(d) - d - 1, d = log(pi_ref / pi), the gradient is (1 - exp(d)) grad log pi
        weights -= config.kl * (1 - np.exp(now - answers.reference))
    weights *= mask * mask.shape[1] / _divisor(config.estimator, mask, longest, found)
    spread = answers.rewards.max(1) - answers.rewards.min(1)
    return Weighted(
        weights=weights.astype(np.float32),
        advantages=found,
        clipped=float(outside.sum() / max(mask.sum(), 1)),
        kl=float(distance.mean()),
        entropy=float(sampled.mean()),
        silent=float((spread == 0).mean()),
    )


def _divisor(estimator: Estimator, mask: NDArray[np.bool_], longest: int, found: Array) -> Array | float:
    """n: 1 where an answer is one event; its length for GRPO, which favours short right and long wrong ones by it.

    For rejection, tokens per answer of those that are imitated: the loss is their mean.
    """
    if estimator == "grpo":
        lengths: Array = np.maximum(mask.sum(1, keepdims=True, dtype=np.float64), 1.0)
        return lengths
    if estimator == "rejection":
        return float(max((mask * found.reshape(-1, 1)).sum(), 1.0)) / len(mask)
    return float(longest) if estimator == "dr_grpo" else 1.0


def pass_at(k: int, samples: int, right: NDArray[np.integer[Any]]) -> Array:
    """Probability that one of k answers is right, unbiased, from how many of `samples` were right: [N] -> [N].

    1 - C(samples - right, k) / C(samples, k), as a product (Chen et al. 2021, "Evaluating large language models trained
    on code", equation 1).
    """
    assert 1 <= k <= samples, "k answers are drawn from those that there are"
    wrong = samples - right.astype(np.int64)
    missed = np.ones(len(wrong))
    for i in range(k):
        missed *= np.maximum(wrong - i, 0) / (samples - i)
    return 1.0 - missed
