"""Parameters of a sweep, as Weights & Biases defines them: one value, several, or a distribution.

    min and max, whole numbers both      int_uniform            q_*      round(x / q) q, whole where q is
    min and max, otherwise               uniform                log_*    min and max are exponents of e
    mu and sigma                         normal, log_normal     *_values min and max are the values themselves

Limits: beta and q_beta are W&B's alone.
Source: https://docs.wandb.ai/models/sweeps/sweep-config-keys and the schema of github.com/wandb/sweeps
"""

import math
from bisect import bisect_right
from itertools import accumulate
from statistics import NormalDist
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lm_core.config import Config

Scalar = bool | int | float | str | None
Value = Scalar | list[Scalar]
Distribution = Literal[
    "constant", "categorical", "categorical_w_probabilities", "int_uniform", "uniform", "q_uniform",
    "log_uniform", "log_uniform_values", "q_log_uniform", "q_log_uniform_values", "inv_log_uniform",
    "inv_log_uniform_values", "normal", "q_normal", "log_normal", "q_log_normal",
]  # fmt: skip
_CHOICES = ("constant", "categorical", "categorical_w_probabilities")
_LEAST_UNIFORM = 2.0**-54
"""A uniform of 0 has no normal quantile."""


class Parameter(Config):
    """Values or distribution of a flag."""

    value: Value = None
    """The same in every trial."""
    values: tuple[Value, ...] | None = Field(None, min_length=1)
    """One of these."""
    probabilities: tuple[float, ...] | None = None
    """Probabilities of the values, for random draws."""
    min: int | float | None = None
    """Lowest of a range, or its exponent."""
    max: int | float | None = None
    """Highest of a range, or its exponent."""
    mu: float | None = None
    """Mean of a normal distribution; 0 when not given."""
    sigma: float | None = Field(None, ge=0)
    """Its standard deviation; 1 when not given."""
    q: int | float | None = Field(None, gt=0)
    """Step of a quantized distribution; 1 when not given."""
    distribution: Distribution | None = None
    """When not given: of values each alike; of a range uniform, over whole numbers where both ends are written so."""

    @field_validator("value", "values", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, dict) for one in values):
            raise ValueError(
                "a table is not a value: nest it as parameters: {name: {value: ...}}, or write dotted keys"
            )
        return value

    @field_validator("distribution", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value in ("beta", "q_beta"):
            raise ValueError(f"{value} is drawn by W&B alone; here: uniform, normal, or values with probabilities")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self.model_fields_set - {"distribution"}
        takes = self._takes()
        if stray := sorted(given - takes):
            raise ValueError(f"{self.kind} takes {' and '.join(sorted(takes))}, not {stray[0]}")
        required = {"min", "max"} if "min" in takes else {"value"} if "value" in takes else takes & {"values"}
        if self.kind == "categorical_w_probabilities":
            required = {"values", "probabilities"}
        if lacking := sorted(required - given, reverse=True):
            raise ValueError(f"{self.kind} needs {' and '.join(lacking)}" if given or self.distribution else _NOTHING)
        self._check_range()
        self._check_probabilities()
        try:
            self.draw(0.0), self.draw(1 - 2**-53)
        except OverflowError:
            raise ValueError(f"{self.kind} draws numbers that are too large; its ends are exponents of e") from None
        return self

    def _takes(self) -> set[str]:
        kind = self.kind
        if kind in _CHOICES:
            return {"value"} if kind == "constant" else {"values", "probabilities"}
        range_ = {"mu", "sigma"} if kind.endswith("normal") else {"min", "max"}
        return range_ | {"q"} if kind.startswith("q_") else range_

    def _check_range(self) -> None:
        if self.min is None or self.max is None:
            return
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.kind == "int_uniform" and not (isinstance(self.min, int) and isinstance(self.max, int)):
            raise ValueError("int_uniform needs whole numbers: write min and max without a point")
        if self.kind.endswith("log_uniform_values") and self.min <= 0:
            raise ValueError(f"{self.kind} needs a min above 0")

    def _check_probabilities(self) -> None:
        if self.probabilities is None or self.values is None:
            return
        if len(self.probabilities) != len(self.values):
            raise ValueError(f"{len(self.values)} values have {len(self.probabilities)} probabilities")
        if min(self.probabilities) < 0 or not math.isclose(sum(self.probabilities), 1.0, abs_tol=1e-6):
            raise ValueError(f"probabilities sum to {sum(self.probabilities):g}, not to 1")

    @property
    def kind(self) -> str:
        """The distribution, as given or by what is given."""
        if self.distribution is not None:
            return self.distribution
        if "values" in self.model_fields_set:
            return "categorical_w_probabilities" if self.probabilities is not None else "categorical"
        if self.model_fields_set & {"min", "max"}:
            whole = all(end is None or isinstance(end, int) for end in (self.min, self.max))
            return "int_uniform" if whole else "uniform"
        return "constant"

    @property
    def grid(self) -> "Grid | None":
        """All its values, in order; None for distributions that W&B's grids do not take."""
        if self.kind == "constant":
            return Grid(1, lambda _: self.value)
        if self.kind == "categorical" and self.values is not None and self.probabilities is None:
            values = _distinct(self.values)
            return Grid(len(values), values.__getitem__)
        if self.min is None or self.max is None:
            return None
        low = self.min
        if self.kind == "int_uniform":
            return Grid(int(self.max) - int(low) + 1, lambda index: int(low) + index)
        if self.kind == "q_uniform":  # numpy.arange(min, max, q), which leaves max out
            q = self.q or 1
            return Grid(max(1, math.ceil((self.max - low) / q)), lambda index: _multiple(low + index * q))
        return None

    def draw(self, uniform: float) -> Value:
        """The value at `uniform` in [0, 1): the quantile of the distribution."""
        if self.kind == "constant":
            return self.value
        if self.values is not None:
            if self.probabilities is None:
                return self.values[int(uniform * len(self.values))]
            above = bisect_right(list(accumulate(self.probabilities)), uniform)
            return self.values[min(above, len(self.values) - 1)]
        if self.kind == "int_uniform":
            assert isinstance(self.min, int)
            assert isinstance(self.max, int)
            return self.min + int(uniform * (self.max - self.min + 1))
        drawn = self._continuous(uniform)
        if not self.kind.startswith("q_"):
            return _short(drawn)
        q = self.q or 1
        return round(drawn / q) * q if isinstance(q, int) else _multiple(round(drawn / q) * q)

    def _continuous(self, uniform: float) -> float:
        kind = self.kind.removeprefix("q_")
        if kind.endswith("normal"):
            sigma = 1.0 if self.sigma is None else self.sigma
            normal = (self.mu or 0.0) + sigma * NormalDist().inv_cdf(max(uniform, _LEAST_UNIFORM))
            return math.exp(normal) if kind == "log_normal" else normal
        assert self.min is not None
        assert self.max is not None
        low, high = float(self.min), float(self.max)
        match kind:
            case "log_uniform":
                return math.exp(low + uniform * (high - low))
            case "log_uniform_values":
                return low * math.exp(uniform * math.log(high / low))
            case "inv_log_uniform":  # log(1 / x) is uniform between min and max
                return math.exp(-(high - uniform * (high - low)))
            case "inv_log_uniform_values":  # 1 / x is log-uniform between 1 / max and 1 / min
                return low * math.exp(uniform * math.log(high / low))
            case _:
                return low + uniform * (high - low)


_NOTHING = "give value, or values, or min and max, or a distribution"


class Grid:
    """A sequence that is counted and never made."""

    def __init__(self, count: int, at: Any) -> None:
        self.count, self.at = count, at


def _distinct(values: tuple[Value, ...]) -> list[Value]:
    """Each once; 1 and 1.0 are one, True is another."""
    found: dict[str, Value] = {}
    for value in values:
        whole = isinstance(value, float) and value.is_integer()
        found.setdefault(repr(int(value) if whole and isinstance(value, float) else value), value)
    return list(found.values())


def _short(value: float) -> float | int:
    """Six digits, which say what a rate is."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _multiple(value: float) -> float | int:
    """Without the last digits of a product."""
    return value if isinstance(value, int) else float(f"{value:.12g}")
