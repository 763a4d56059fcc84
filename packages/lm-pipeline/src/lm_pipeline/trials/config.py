"""A sweep as Weights & Biases writes it down, and the trials that it means here.

    method: grid | random      parameters: {schedule.peak_lr: {values: [...]}, ...}      metric: {name, goal, target}
    nested parameters {schedule: {parameters: {peak_lr: ...}}} are the dotted ones

Limits: the methods bayes and custom, schedulers and several metrics are W&B's alone. early_terminate is noted and left
to W&B's agent. An int in YAML is written without a point: min: 0 and max: 1 are whole numbers, 0.0 and 1.0 are not.
Source: https://docs.wandb.ai/models/sweeps/sweep-config-keys and the schema of github.com/wandb/sweeps
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lm_core.config import Config, complaint
from lm_core.errors import UserError
from lm_core.rng import generator
from lm_pipeline.trials.distributions import Parameter, Value
from lm_pipeline.trials.yaml_file import read_yaml

_PROGRAM = "transformerlm-train"
_OURS = ("save_dir", "resume", "print_config", "logging.backend")
"""Flags that a sweep gives every trial itself."""
_OF_WANDB = {"scheduler": "schedulers run", "metrics": "several metrics are weighed"}
_FOR_WANDB = ("apiVersion", "controller", "description", "entity", "image_uri", "job", "kind", "name", "project")
"""Keys for W&B alone, without effect here."""
_CUSTOMARY = 10
"""Draws, when nobody says how many."""
_MOST_TRIALS = 1000
"""Every trial's flags are looked at before the first one runs."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Metric(Config):
    """Metric by which trials are compared."""

    name: str = "metrics.val_loss"
    """Key of a run's result.json."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Whether less or more is better."""
    target: float | None = None
    """No trial begins once one has reached this."""
    impute: str = ""
    """Option of method bayes."""
    impute_while_running: str | bool = ""
    """Option of method bayes."""

    def reached(self, value: float | None) -> bool:
        """Whether a trial's metric is as good as the target, if there is one."""
        if self.target is None or value is None:
            return False
        return value <= self.target if self.goal == "minimize" else value >= self.target


class SweepFile(Config):
    """The keys of a sweep file that mean something here."""

    program: str = _PROGRAM
    """Program that W&B's agent runs: transformerlm-train."""
    command: tuple[str, ...] = ()
    """Command that W&B's agent runs; here, the words between program and args are flags of every trial."""
    method: Literal["grid", "random"]
    """All combinations, or draws."""
    metric: Metric = Metric()
    """Metric by which trials are compared."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """Flag -> values or distribution."""
    run_cap: int | None = Field(None, gt=0)
    """Most trials."""
    early_terminate: dict[str, Any] | None = None
    """Option of W&B's agent; here every trial runs to its end."""

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [str(word) for word in value] if isinstance(value, list) else value

    @field_validator("parameters", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return dict(_flattened(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _runs_here(self) -> Self:
        if Path(self.program).stem != _PROGRAM:
            raise ValueError(f"program: {self.program} is run by W&B alone; here it is {_PROGRAM}")
        if self.command and "${program}" not in self.command:
            raise ValueError("command: write ${program} in it, so that the flags after it are known")
        self.fixed_words()
        for name, parameter in self.parameters.items():
            if self.method == "grid" and parameter.grid is None:
                raise ValueError(f"parameters.{name}: {_no_grid(parameter)}")
        return self

    def fixed_words(self) -> list[str]:
        """The flags of every trial.

        Raises:
            ValueError: for a macro that has no meaning here.
        """
        if not self.command:
            return []
        words = self.command[self.command.index("${program}") + 1 :]
        return [_expanded(word) for word in words if not word.startswith("${args")]

    def notes(self) -> Iterator[str]:
        """Notes on the file, to print before hours of trials."""
        if self.early_terminate:
            yield "early_terminate is for W&B's agent: here every trial runs to its end"
        for name, parameter in self.parameters.items():
            if parameter.kind.removeprefix("q_") == "log_uniform" and 0 < (parameter.min or 0) < 1:
                yield (
                    f"parameters.{name}: log_uniform draws from e^min to e^max, {math.exp(parameter.min or 0):.4g} to"
                    f" {math.exp(parameter.max or 0):.4g}; log_uniform_values takes the values themselves"
                )


def _flattened(table: dict[Any, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Nested parameters under dotted keys.

    Raises:
        ValueError: for an invalid name, or one that is given twice.
    """
    seen = set()
    for key, value in table.items():
        name = f"{at}{key}"
        if not _NAME.fullmatch(str(key)):
            raise ValueError(f"{name!r} is not the name of a flag")
        nested = isinstance(value, dict) and "parameters" in value
        if nested and (len(value) > 1 or not isinstance(value["parameters"], dict)):
            raise ValueError(f"{name}: nested parameters must be a table without other keys")
        if not isinstance(value, dict):
            raise ValueError(f"{name}: write {name}: {{value: {value}}} for one value, values: [...] for several")
        for path, inner in _flattened(value["parameters"], f"{name}.") if nested else [(name, value)]:
            if path in seen:
                raise ValueError(f"{path} is given twice, nested and dotted")
            if path in _OURS:
                raise ValueError(f"{path}: the sweep decides on it for every trial; leave it out")
            seen.add(path)
            yield path, inner


def _no_grid(parameter: Parameter) -> str:
    if parameter.probabilities is not None:
        return "probabilities are for method random; a grid takes every value once"
    return f"{parameter.kind} has no grid: give values, whole numbers, or q_uniform with q; or method: random"


def _expanded(word: str) -> str:
    """A word of command with W&B's `${envvar:NAME}` replaced."""

    def variable(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ValueError(f"command: the environment has no {found[1]}")
        return os.environ[found[1]]

    word = re.sub(r"\$\{envvar:(\w+)\}", variable, word)
    if "${" in word:
        raise ValueError(f"command: {word} has no meaning here after ${{program}}; write the flag itself")
    return word


class Trial(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    """Flag -> value."""
    words: tuple[str, ...]
    """Those on the command line."""

    @property
    def name(self) -> str:
        """The same for the same flags, so that a resumed sweep finds what it has done."""
        return hashlib.sha1(json.dumps(self.words).encode()).hexdigest()[:10]


def read_sweep(path: str) -> SweepFile:
    """Read a sweep file.

    Raises:
        UserError: when it cannot be read, is not YAML, or a key is wrong, saying which.
    """
    said = read_yaml(path)
    if not isinstance(said, dict):
        raise UserError(f"{path}: a sweep file is a table of keys: method, parameters, ...")
    for key, what in _OF_WANDB.items():
        if key in said:
            raise UserError(f"{path}: {key}: {what} on W&B alone (wandb sweep {path}); here one metric is compared")
    if said.get("method") in ("bayes", "custom"):
        raise UserError(
            f"{path}: method: {said['method']} runs on W&B alone (wandb sweep {path}); here it is grid or random"
        )
    try:
        return SweepFile.model_validate({key: value for key, value in said.items() if key not in _FOR_WANDB})
    except ValidationError as error:
        raise UserError(complaint(SweepFile, error, path)) from None


def trials_of(sweep: SweepFile, count: int, seed: int) -> list[Trial]:
    """The trials, each once: all of a grid, or `count` draws (0: run_cap, or 10), no more than run_cap.

    Raises:
        UserError: when there are too many; none has been made then.
    """
    wanted = min((most for most in (count, sweep.run_cap) if most), default=0)
    if sweep.method == "grid":
        in_all = math.prod(parameter.grid.count for parameter in sweep.parameters.values() if parameter.grid)
        number = min(wanted or in_all, in_all)
        drawn = (_combination(sweep, index) for index in range(number))
    else:
        number = wanted or _CUSTOMARY
        drawn = (_draw(sweep, index, seed) for index in range(number))
    if number > _MOST_TRIALS:
        raise UserError(
            f"the sweep has {number:,} trials, and at most {_MOST_TRIALS:,} are run: give a smaller --count or run_cap,"
            " fewer values, or method: random"
        )
    fixed = sweep.fixed_words()
    found: dict[str, Trial] = {}
    for values in drawn:
        words = [*fixed, *(word for name, value in values.items() for word in _words(name, value))]
        trial = Trial(values=values, words=tuple(words))
        found.setdefault(trial.name, trial)
    return list(found.values())


def _combination(sweep: SweepFile, index: int) -> dict[str, Any]:
    """That of a grid at `index`, the last parameter changing first; no other one is made."""
    values = {}
    for name, parameter in reversed(sweep.parameters.items()):
        assert parameter.grid is not None
        index, at = divmod(index, parameter.grid.count)
        values[name] = parameter.grid.at(at)
    return dict(reversed(values.items()))


def _draw(sweep: SweepFile, number: int, seed: int) -> dict[str, Any]:
    return {
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
    words = ["None" if one is None else str(one) for one in (value if isinstance(value, list) else [value])]
    if len(words) == 1 and words[0].startswith("-"):
        return [f"--{name}={words[0]}"]
    return [f"--{name}", *words]
