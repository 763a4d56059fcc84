"""Problems of tasks as a rollout reads them: prompts as ids, answers as rewards.

number --Mixture.problem--> prompt --ids--> model --ids--> completion --reward--> components --> what it is worth
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from lm_core.rollouts import CORRECT, REWARD, Rewards
from rlvr.tasks.registry import Mixture
from rlvr.tasks.reward import COMPONENTS, reward
from rlvr.tasks.task import Problem
from rlvr.vocabulary import decode, encode


class TaskProblems:
    """The training problems of a mixture; see `lm_core.rollouts.Problems`.

    Args:
        mixture: the tasks.
        seed: of the problems.
        worth: what the components of a reward add to it; a right answer counts 1.
    """

    def __init__(self, mixture: Mixture, seed: int, worth: Mapping[str, float]) -> None:
        self.worth = {CORRECT: 1.0, **worth}
        self.problems = lru_cache(1)(
            lambda first, count: [mixture.problem(seed, number, "train") for number in range(first, first + count)]
        )

    def prompts(self, first: int, count: int) -> list[list[int]]:
        """The ids of the prompts from number `first` on."""
        return [encode(problem.prompt) for problem in self.problems(first, count)]

    def rewards(self, first: int, answers: Sequence[Sequence[Sequence[int]]]) -> Rewards:
        """The components of the rewards, and their sum as it is weighted."""
        problems = self.problems(first, len(answers))
        earned = [_of_group(problem, group) for problem, group in zip(problems, answers, strict=True)]
        found = {name: np.array([[one[name] for one in group] for group in earned]) for name in COMPONENTS}
        whole = sum(weight * found[name] for name, weight in self.worth.items())
        return {REWARD: np.asarray(whole, np.float64), **found}


def _of_group(problem: Problem, answers: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """The components of each answer; a model that is sure gives the same one often."""
    texts = [decode(ids) for ids in answers]
    known = {text: reward(problem, text) for text in dict.fromkeys(texts)}
    return [known[text] for text in texts]
