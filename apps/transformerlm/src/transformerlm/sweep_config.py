"""A sweep as Weights & Biases writes it down, and the trials that it means here.

    method: grid | random      parameters: {schedule.peak_lr: {values: [...]}, ...}      metric: {name, goal}

Limits: bayes is W&B's alone, and so are nested parameters; dotted keys say the same.
Source: https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lm_core.config import Config, complaint
from lm_core.errors import UserError
from lm_core.rng import generator

Value = bool | int | float | str | list[Any]
Distribution = Literal["uniform", "int_uniform", "log_uniform_values"]
_ARGS = "${args}"


class Parameter(Config):
    """What a flag may be: one value, several, or a range."""

    value: Value | None = None
    """The same in every trial."""
    values: tuple[Value, ...] | None = Field(None, min_length=1)
    """One of these."""
    min: float | None = None
    """Lowest of a range."""
    max: float | None = None
    """Highest of a range."""
    distribution: Distribution | None = None
    """Of a range; when not given, uniform, over whole numbers where both ends are."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [self.value is not None, self.values is not None, self.min is not None or self.max is not None]
        if sum(ways) != 1:
            raise ValueError("give value, or values, or min and max")
        if ways[2] and (self.min is None or self.max is None or self.min > self.max):
            raise ValueError("a range has a min, and a max that is not below it")
        if self.distribution == "log_uniform_values" and (self.min is None or self.min <= 0):
            raise ValueError("log_uniform_values needs a min above 0")
        return self

    @property
    def choices(self) -> tuple[Value, ...] | None:
        """All that it may be; None for a range."""
        return (self.value,) if self.value is not None else self.values

    def draw(self, uniform: float) -> Value:
        """The value at `uniform` in [0, 1)."""
        if self.choices is not None:
            return self.choices[int(uniform * len(self.choices))]
        assert self.min is not None
        assert self.max is not None
        whole = self.distribution == "int_uniform" or (
            self.distribution is None and self.min.is_integer() and self.max.is_integer()
        )
        if whole:
            return int(self.min) + int(uniform * (int(self.max) - int(self.min) + 1))
        if self.distribution == "log_uniform_values":
            return float(f"{self.min * math.exp(uniform * math.log(self.max / self.min)):.6g}")
        return float(f"{self.min + uniform * (self.max - self.min):.6g}")


class Metric(Config):
    """What trials are compared by."""

    name: str = "metrics.val_loss"
    """Key of a run's result.json."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Whether less or more is better."""


class SweepFile(BaseModel):
    """The keys of a sweep file that mean something here; W&B's others are left to W&B."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    program: str = ""
    """What W&B's agent runs; here it is transformerlm-train."""
    command: tuple[str, ...] = ()
    """What W&B's agent runs; here, the words between program and args are flags of every trial."""
    method: Literal["grid", "random"]
    """All combinations, or draws."""
    metric: Metric = Metric()
    """What trials are compared by."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """Flag -> what it may be."""
    run_cap: int | None = Field(None, gt=0)
    """Most trials."""

    def fixed_words(self) -> list[str]:
        """The flags of every trial."""
        words = list(self.command)
        start = words.index("${program}") + 1 if "${program}" in words else len(words)
        return [word for word in words[start:] if not word.startswith("${")]


class Trial(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    """Flag -> value."""
    words: tuple[str, ...]
    """Those on the command line."""

    @property
    def name(self) -> str:
        """The same for the same flags, so that a sweep that goes on finds what it has done."""
        return hashlib.sha1(json.dumps(self.words).encode()).hexdigest()[:10]


def read_sweep(path: str) -> SweepFile:
    """Read a sweep file.

    Raises:
        UserError: when it cannot be read, is not YAML, or a key is wrong, saying which.
    """
    try:
        said = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--sweep: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if isinstance(said, Mapping) and said.get("method") == "bayes":
        raise UserError(f"{path}: method: bayes runs on W&B alone (wandb sweep {path}); here it is grid or random")
    try:
        sweep = SweepFile.model_validate(said)
    except ValidationError as error:
        raise UserError(complaint(SweepFile, error, path)) from None
    ranges = [name for name, parameter in sweep.parameters.items() if parameter.choices is None]
    if sweep.method == "grid" and ranges:
        raise UserError(f"{path}: parameters.{ranges[0]}: a range has no grid: give values, or method: random")
    return sweep


def trials_of(sweep: SweepFile, count: int, seed: int) -> list[Trial]:
    """The trials, each once: all of a grid, or `count` draws (0: run_cap, or 10), no more than run_cap."""
    found: dict[str, Trial] = {}
    for values in _grid(sweep) if sweep.method == "grid" else _draws(sweep, count or sweep.run_cap or 10, seed):
        words = [*sweep.fixed_words(), *(word for name, value in values.items() for word in _words(name, value))]
        trial = Trial(values=values, words=tuple(words))
        found.setdefault(trial.name, trial)
    trials = list(found.values())[: count or None]
    return trials[: sweep.run_cap]


def _grid(sweep: SweepFile) -> Iterator[dict[str, Any]]:
    names = list(sweep.parameters)
    for values in product(*(parameter.choices or () for parameter in sweep.parameters.values())):
        yield dict(zip(names, values, strict=True))


def _draws(sweep: SweepFile, count: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            name: parameter.draw(float(generator(seed, f"sweep {name}", number).random()))
            for name, parameter in sweep.parameters.items()
        }


def _words(name: str, value: Value) -> list[str]:
    """A flag as it is typed."""
    if isinstance(value, bool):
        return (
            [f"--{name}"]
            if value
            else [f"--{name.rpartition('.')[0]}.no_{name.rpartition('.')[2]}".replace("--.", "--")]
        )
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *map(str, values)]
