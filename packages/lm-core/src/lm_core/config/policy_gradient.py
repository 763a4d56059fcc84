"""How a policy is improved by rewards; `lm_core.policy_gradient` has the functions."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lm_core.config.base import Config

Estimator = Literal["reinforce", "rloo", "grpo", "dr_grpo", "rejection"]


class PolicyGradientConfig(Config):
    """Estimator of the gradient, and what is added to the reward."""

    estimator: Estimator = "rloo"
    """reinforce: a baseline from the whole batch; rloo: from the others of a prompt's group; grpo: in standard
    deviations of the group, and per token of the answer; dr_grpo: from the group's mean, without either division;
    rejection: supervised training on the answers with a reward of 1 or more (expert iteration)."""
    group_size: int = Field(8, gt=0)
    """K: answers per prompt."""
    updates: int = Field(1, gt=0)
    """Optimizer steps on one batch of answers; after the first, another policy than the one that sampled."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """An answer that has become less likely than 1 - clip_low of what it was is not made less likely still."""
    clip_high: float = Field(0.2, gt=0)
    """An answer that has become more likely than 1 + clip_high of what it was is not made more likely still."""
    kl: float = Field(0.0, ge=0)
    """Weight of the divergence from the reference policy, in nats."""
    kl_in: Literal["reward", "loss"] = "reward"
    """reward: taken off the reward, an unbiased penalty; loss: GRPO's term of each token."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the policy's entropy, in nats, added to the reward."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.estimator != "reinforce" and self.group_size < 2:
            raise ValueError(
                f"group_size 1 leaves {self.estimator} nothing to compare an answer with: give 2 or more, or reinforce"
            )
        return self
