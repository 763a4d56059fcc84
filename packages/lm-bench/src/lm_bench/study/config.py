"""A study: one question, the arms that answer it, and the rules of the comparison, stated before the first run."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lm_core.config import Config, Text
from lm_core.errors import UserError
from lm_core.run.resume import flat

Scalar = bool | int | float | str
Fields = dict[str, Any]
"""Dotted key of the app's config -> value. A text may hold `{KEY}` or `{KEY*FACTOR}` of a tuned key or `steps`."""
Goal = Literal["minimize", "maximize"]


class StudyConfig(Config):
    """What is compared, on what, how often, and which difference would matter."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name, and that of its folder."""
    question: Text
    """The question, in one sentence."""
    app: str = Field(pattern=r"^[a-z_][a-z0-9_]*$")
    """Program that trains: testbed_d, or train for transformerlm-train."""
    metric: str = "metrics.val_loss"
    """Key of a run's result.json, at the end of its schedule."""
    goal: Goal = "minimize"
    """Whether less or more of the metric is better."""
    target: float | None = None
    """Validation loss in nats: time, steps and memory to reach it are compared."""
    smallest_effect: float = Field(gt=0)
    """Smallest difference of the metric that matters."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Probability of a false alarm, over all comparisons together."""
    power: float = Field(0.8, gt=0, lt=1)
    """Probability with which an effect of the smallest size that can be shown is shown."""
    baseline: str = ""
    """Arm that the others are compared with; all pairs when empty."""
    budgets: tuple[int, ...] = Field(min_length=1)
    """Steps; each budget has its own schedule, its own tuning, and is compared at its end."""
    steps_key: str = "steps"
    """Key of the app's config that takes the budget."""
    seeds: int = Field(ge=2)
    """Number of paired seeds of the comparison: 0, 1, 2, ..."""
    tuning_seeds: tuple[int, ...] = (1000,)
    """Seeds of the tuning, which are not among those of the comparison."""
    backends: tuple[Literal["torch", "mlx"], ...] = Field(("torch",), min_length=1)
    """Backends; arms are tuned on the first one."""
    threads: int = Field(1, gt=0)
    """Threads of a run, on which its last bits depend."""
    at_once: int = Field(0, ge=0)
    """Most runs at once, such as 1 on one GPU; 0: as many as the cores have threads for."""
    together: bool = False
    """Train the seeds of an arm as one model, where the backend can (torch): as each alone but for rounding."""
    extend: bool = False
    """Extend a grid at the edge on which the best point of an arm lies, until it lies inside, 3 times at most."""
    base: Fields = Field(default_factory=dict)
    """Fields that all arms share."""
    tuned: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    """Grid of each tuned field; every combination is a trial of each arm."""
    arms: dict[str, Fields] = Field(min_length=2)
    """Fields of each arm, over the base."""
    grids: dict[str, dict[str, tuple[Scalar, ...]]] = Field(default_factory=dict)
    """Arm -> its own grids of tuned fields, of as many values as those of the others."""
    variants: dict[str, Fields] = Field(default_factory=dict)
    """Name -> fields over the base, with which the study is run as one of its own: another text, another size."""
    expected: tuple[str, ...] = ()
    """Keys of the resolved config that are meant to differ between arms, besides the arms' own fields."""

    @field_validator("base", "tuned", "arms", "grids", "variants", mode="before")
    @classmethod
    def _dotted(cls, value: Any, info: ValidationInfo) -> Any:
        """Nested tables as dotted keys, those of each arm for itself."""
        if not isinstance(value, Mapping):
            return value
        own = info.field_name in ("arms", "grids", "variants")
        grids = info.field_name in ("tuned", "grids")
        return {name: _flat(table, grids) for name, table in value.items()} if own else _flat(value, grids)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.baseline and self.baseline not in self.arms:
            raise ValueError(f"baseline: there is no arm {self.baseline!r}: {', '.join(self.arms)}")
        for name, values in (
            ("budgets", self.budgets),
            ("tuning_seeds", self.tuning_seeds),
            ("backends", self.backends),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: give each once")
        if min(self.budgets) < 1:
            raise ValueError("budgets: give steps, from 1")
        if any(seed < self.seeds for seed in self.tuning_seeds):
            raise ValueError(f"tuning_seeds: give seeds from {self.seeds}: those below are the comparison's")
        if self.tuned and not self.tuning_seeds:
            raise ValueError("tuning_seeds: give one at least, by which the tuned fields are chosen")
        self._check_grids()
        return self

    def _check_grids(self) -> None:
        for arm, grids in {"": self.tuned, **self.grids}.items():
            where = f"grids.{arm}" if arm else "tuned"
            if arm and arm not in self.arms:
                raise ValueError(f"grids: there is no arm {arm!r}: {', '.join(self.arms)}")
            for key, values in grids.items():
                if key not in self.tuned:
                    raise ValueError(
                        f"{where}: {key!r} is not among the tuned fields: {', '.join(self.tuned) or 'none'}"
                    )
                if not values or len(set(map(repr, values))) < len(values):
                    raise ValueError(f"{where}: {key}: give values, each once")
            if math.prod(map(len, {**self.tuned, **grids}.values())) != math.prod(map(len, self.tuned.values())):
                raise ValueError(f"{where}: every arm gets as many trials: give grids of as many values")
        for where, fields in self.tables().items():
            for key in fields:
                if key in self.tuned:
                    raise ValueError(f"{where}: {key!r} is tuned: leave it out")

    def seeds_of(self, stage: str) -> tuple[int, ...]:
        """The seeds of a stage."""
        return tuple(range(self.seeds)) if stage == "comparison" else self.tuning_seeds

    def seeds_in_job(self, stage: str) -> int:
        """How many of them are trained as one model."""
        return max(1, len(self.seeds_of(stage))) if self.together else 1

    def tables(self) -> dict[str, Fields]:
        """The tables of fields, by the place where they stand."""
        arms = {f"arms.{name}": fields for name, fields in self.arms.items()}
        return {"base": self.base, **arms, **{f"variants.{name}": fields for name, fields in self.variants.items()}}

    def each(self, only: str = "") -> list["StudyConfig"]:
        """The studies that a file with variants means, or `only` one of them; one without is its own.

        Raises:
            UserError: when there is no such variant.
        """
        if only and only not in self.variants:
            raise UserError(f"--variant {only}: the study has {', '.join(self.variants) or 'no variants'}")
        if not self.variants:
            return [self]
        return [
            self.model_copy(update={"name": f"{self.name}-{name}", "base": self.base | fields, "variants": {}})
            for name, fields in self.variants.items()
            if only in ("", name)
        ]

    def grid(self, arm: str) -> dict[str, tuple[Scalar, ...]]:
        """The grid of an arm, by tuned field."""
        return {**self.tuned, **self.grids.get(arm, {})}


def _flat(table: Any, grids: bool) -> Any:
    """A table with dotted keys; a grid is a tuple, as it is in a config."""
    if not isinstance(table, Mapping):
        return table
    return {key: tuple(value) if grids and isinstance(value, list) else value for key, value in flat(table).items()}
