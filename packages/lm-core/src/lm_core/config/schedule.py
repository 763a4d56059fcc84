"""The learning rate over a run; `lm_core.schedules` has the functions."""

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from lm_core.config.base import Config
from lm_core.errors import UserError

Points = tuple[tuple[int, float], ...]
DECAYING = ("cosine", "hold_then_decay", "hold_then_cosine")
"""The kinds that end at `max_steps`."""


def parse_piecewise(text: str) -> Points:
    """Read "0:3e-4,20000:1.5e-4".

    Raises:
        UserError: when it is not of that form, a rate is not positive and finite, or the steps do not ascend.
    """
    points: list[tuple[int, float]] = []
    for part in text.split(","):
        start, colon, rate = part.strip().partition(":")
        try:
            point = (int(start), float(rate))
        except ValueError:
            point = (-1, 0.0)
        if not colon or point[0] < 0 or not (0 < point[1] < math.inf):
            raise UserError(
                f'schedule: {part!r} is not "step:lr" with a step >= 0 and a positive rate, as in "0:3e-4,20000:1.5e-4"'
            )
        if points and point[0] <= points[-1][0]:
            raise UserError(f"schedule: step {point[0]} comes after step {points[-1][0]}; the steps must ascend")
        points.append(point)
    return tuple(points)


class ScheduleConfig(Config):
    """A peak rate, its shape over the run, and a linear warm-up in front of any shape."""

    kind: Literal["constant", "cosine", "hold_then_decay", "hold_then_cosine", "piecewise"] = "constant"
    """The shape after the warm-up; hold_then_decay falls in a straight line, hold_then_cosine along a cosine."""
    peak_lr: float = Field(3e-4, gt=0)
    """The rate where the factor is 1 (piecewise: unused, the points hold rates)."""
    warmup_steps: int = Field(0, ge=0)
    """W: length of the linear warm-up."""
    max_steps: int = Field(1, gt=0)
    """T: the step at which the decay ends."""
    min_factor: float = Field(0.0, ge=0, le=1)
    """m: the floor of a decay, as a factor of the peak."""
    decay_steps: int = Field(0, ge=0)
    """hold_then_decay, hold_then_cosine: length of the decay."""
    start_step: int = Field(0, ge=0)
    """S: steps that are not counted, so that the warm-up begins after them (piecewise: of the warm-up alone)."""
    points: Points = ()
    """piecewise: (step, rate) pairs in ascending order."""
    correction_warmup: tuple[float, float] | None = None
    """(a, b): the rate times sqrt((1 - a^t) / (1 - b^t)), as if Adam with beta2 b corrected its bias by a."""

    @field_validator("points", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            return parse_piecewise(value)
        return tuple(tuple(point) for point in value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        steps = [step for step, _ in self.points]
        if any(step < 0 or rate <= 0 for step, rate in self.points) or steps != sorted(set(steps)):
            raise ValueError("points: the steps must ascend from 0 or later, and the rates be positive")
        if self.kind == "piecewise" and not self.points:
            raise ValueError("a piecewise schedule needs points")
        if self.kind in DECAYING:
            self._check_decay()
        if self.correction_warmup and not all(0 <= beta < 1 for beta in self.correction_warmup):
            raise ValueError("correction_warmup: two numbers from 0 up to and not with 1, such as [0.999, 0.95]")
        return self

    def _check_decay(self) -> None:
        length = self.max_steps - self.start_step
        if self.kind == "cosine" and self.warmup_steps >= length:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} leaves no room to decay before max_steps {self.max_steps}"
                + (f", counted from start_step {self.start_step}" if self.start_step else "")
                + ": warm up for fewer steps, or train for more"
            )
        if self.kind != "cosine" and self.decay_steps > length:
            what = f"max_steps {self.max_steps}" + (f" less start_step {self.start_step}" if self.start_step else "")
            raise ValueError(
                f"decay_steps {self.decay_steps} is more than {what}: decay for fewer steps, or train for more"
            )
