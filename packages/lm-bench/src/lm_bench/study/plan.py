"""The runs of a study: each with its resolved config and a hash, all checked before the first one starts.

base + arm + point + budget, seed, backend --{KEY*FACTOR} filled--> the app's config --> its plan
hash = resolved config, data, code version
"""

import hashlib
import itertools
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from lm_bench.study.config import Fields, Scalar, StudyConfig
from lm_bench.study.result import TRIALS, Stage
from lm_bench.study.sensitivity import Point, words
from lm_core.backend import check_together
from lm_core.config import Config
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.file_names import toml_document
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.run.ranks import code_hash
from lm_core.run.resume import flat, values_of
from lm_core.run.session import TEST_LOSS
from lm_core.schedules import learning_rate
from lm_pipeline.trials.metric import check_metric
from lm_pipeline.trials.program import Program

_HOLE = re.compile(r"\{([A-Za-z_][\w.]*)(?:\*([\d.eE+-]+))?\}")
_OF_ONE_CALL = ("save_dir", "resume", "config", "print_config")
_OF_A_RUN = ("seed", "backend")
"""Keys that the study decides on, besides the budget's."""
_SHORT = 16
_LOOKED_AT = 3
"""Batches by which two arms are told apart."""
_RATES = 64
"""Parts of a run at whose ends their learning rates are compared."""


Job = tuple["Trial", ...]
"""Trials that one process runs at once: one, or those that are trained as one model."""


@dataclass(frozen=True)
class Trial:
    """One run of a study, before it has been run."""

    arm: str
    point: Point
    budget: int
    seed: int
    backend: str
    stage: Stage
    hash: str
    toml: str
    """Config for the app."""
    in_job: int = 1
    """Trials that its job has, itself included."""

    @property
    def words(self) -> str:
        """Short description, for a line."""
        point = words({key.rpartition(".")[2]: value for key, value in self.point.items()})
        return f"{self.arm}{', ' * bool(point)}{point}, {self.budget:,} steps, {self.backend}, seed {self.seed}"

    def folder(self, study_folder: Path) -> Path:
        """Its run folder."""
        return study_folder / TRIALS / self.hash

    def identity(self) -> dict[str, Any]:
        """The fields that its result has too."""
        return {key: value for key, value in asdict(self).items() if key not in ("hash", "toml", "in_job")}


def points_of(grid: Mapping[str, Sequence[Scalar]]) -> list[Point]:
    """Every combination of a grid's values; one empty point where nothing is tuned."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


class Planner:
    """Makes the trials of a study.

    Args:
        study: the study.
        program: trains its runs.
        where: name of its file in errors.

    Raises:
        UserError: when the study sets keys that are not its to set, or a backend is missing.
    """

    def __init__(self, study: StudyConfig, program: Program, where: str):
        self.study, self.program, self.where = study, program, where
        self._check_keys()
        self.versions: dict[str, str] = {name: version(name) for name in study.backends}
        self.code = code_version(program, study.backends)
        self._data: dict[str, tuple[str, tuple[str, ...]]] = {}

    def trial(self, arm: str, point: Point, budget: int, seed: int, backend: str, stage: Stage) -> Trial:
        """One trial, of an arm that `check` has looked at."""
        values = self._values(arm, point, budget, seed, backend)
        config = values_of(self._config(arm, values))
        data, content = self._data[arm]
        kept = {key: value for key, value in config.items() if key not in (*_OF_ONE_CALL, *content)}
        in_job = self.study.seeds_in_job(stage)
        # On the number of seeds in one model its rounding depends.
        parts = [self.study.app, kept, data, self.code, *(self.study.seeds_of(stage) if in_job > 1 else ())]
        text = json.dumps(parts, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_SHORT]
        return Trial(arm, point, budget, seed, backend, stage, digest, toml_document(_nested(values)), in_job)

    def jobs(self, trials: Iterable[Trial]) -> list[Job]:
        """Trials, all those of a stage among them, as the jobs that they are run as."""
        jobs: dict[str, list[Trial]] = {}
        for trial in trials:
            seed = trial.seed if trial.in_job == 1 else 0
            jobs.setdefault(json.dumps(trial.identity() | {"seed": seed}), []).append(trial)
        return [tuple(job) for job in jobs.values()]

    @property
    def data(self) -> dict[str, str]:
        """Arm -> hash of what its runs are trained and evaluated on, as `check` has found it."""
        return {arm: digest for arm, (digest, _) in self._data.items()}

    def check(self) -> dict[str, Plan]:
        """Check what every run needs, before the first one; returns the plan of each arm, at one and the same point.

        Raises:
            UserError: for a mistake in the study.
        """
        study, plans = self.study, dict[str, Plan]()
        point = points_of(study.tuned)[0]
        for arm in study.arms:
            for budget in study.budgets:
                plan = self.plan(arm, point, budget)
                plans.setdefault(arm, plan)
                if plan.loop.max_steps != budget:
                    raise UserError(f"{self.where}: steps_key: {study.steps_key!r} is not the length of a run")
            self._data[arm] = data_hash(plans[arm]), tuple(plans[arm].content)
            for other in points_of(study.grid(arm)):
                self.plan(arm, other, study.budgets[0])
            self._check_together(arm, plans[arm])
        self._check_metric(plans)
        self._check_distinct(plans)
        return plans

    def parsed(self, arm: str, point: Point, budget: int) -> Config:
        """The app's config of an arm at a point.

        Raises:
            UserError: when it is none, naming the arm and the key.
        """
        return self._config(arm, self._values(arm, point, budget, 0, self.study.backends[0]))

    def plan(self, arm: str, point: Point, budget: int) -> Plan:
        """The plan of an arm's runs at a point.

        Raises:
            UserError: when the app refuses its config, naming the arm.
        """
        config = self.parsed(arm, point, budget)
        try:
            return self.program.plan(config, RunFolder(Path(TRIALS)), [])
        except UserError as error:
            raise UserError(f"{self.where}: arms.{arm}: {error}") from None

    def tuning(self, arm: str, budget: int, points: Iterable[Point]) -> list[Trial]:
        """The trials that choose an arm's point."""
        backend = self.study.backends[0]
        return [self.trial(arm, p, budget, s, backend, "tuning") for p in points for s in self.study.tuning_seeds]

    def comparison(self, arm: str, budget: int, point: Point) -> list[Trial]:
        """The trials by which an arm is compared, at its point: one for each seed and backend."""
        ways = itertools.product(range(self.study.seeds), self.study.backends)
        return [self.trial(arm, point, budget, seed, backend, "comparison") for seed, backend in ways]

    def _check_keys(self) -> None:
        study = self.study
        taken = {study.steps_key: "a budget", **dict.fromkeys((*_OF_A_RUN, *_OF_ONE_CALL), "the study")}
        for where, keys in {**study.tables(), "tuned": study.tuned}.items():
            for key in keys:
                if key in taken:
                    raise UserError(f"{self.where}: {where}: {key!r} is set by {taken[key]}: leave it out")
        known = {entry.name for entry in entry_points(group="lm.backends")}
        for backend in study.backends:
            if backend not in known:
                raise UserError(f"{self.where}: backends: {backend!r} is not installed")

    def _check_together(self, arm: str, plan: Plan) -> None:
        if not self.study.together:
            return
        if "mlx" in self.study.backends:
            raise UserError(f"{self.where}: together: MLX trains one seed at a time: leave it out, or mlx")
        try:
            check_together(plan.step)
        except UserError as error:
            raise UserError(f"{self.where}: together: arms.{arm}: {error}") from None

    def _check_metric(self, plans: Mapping[str, Plan]) -> None:
        metric = self.study.metric
        check_metric(metric, f"{self.where}: metric")
        for arm, plan in plans.items():
            missing = not plan.test if metric == TEST_LOSS else "val" in metric and not plan.evaluation
            if missing:
                raise UserError(f"{self.where}: metric: no run of {arm} has {metric}: it is not evaluated on such data")

    def _check_distinct(self, plans: Mapping[str, Plan]) -> None:
        seen: dict[str, str] = {}
        for arm, plan in plans.items():
            same = seen.setdefault(_effect(plan), arm)
            if same != arm:
                ours, theirs = self.study.arms[arm], self.study.arms[same]
                how = "have the same fields" if ours == theirs else "differ in nothing that has an effect"
                raise UserError(f"{self.where}: arms {same} and {arm} {how}: drop one, or change it")

    def _values(self, arm: str, point: Point, budget: int, seed: int, backend: str) -> Fields:
        names: dict[str, Scalar] = {**point, "steps": budget}
        own: Fields = {**self.study.base, **self.study.arms[arm]}
        try:
            filled = {key: filled_in(value, names) for key, value in own.items()}
        except ValueError as error:
            raise UserError(f"{self.where}: arms.{arm}: {error}") from None
        return {**filled, **point, self.study.steps_key: budget, "seed": seed, "backend": backend}

    def _config(self, arm: str, values: Fields) -> Config:
        return self.program.flags.parse(_nested(values), f"{self.where}: arms.{arm}")


def filled_in(value: Any, names: Mapping[str, Scalar]) -> Any:
    """A value with `{KEY}` and `{KEY*FACTOR}` in it replaced; a text that is nothing else becomes the number.

    Raises:
        ValueError: for a key that `names` lacks, or a factor of what is not a number.
    """

    def number(found: re.Match[str]) -> Scalar:
        key, factor = found[1], found[2]
        if key not in names:
            raise ValueError(f"{found[0]}: {key!r} is neither steps nor a tuned field: {', '.join(names)}")
        amount = names[key]
        if factor is None:
            return amount
        if not isinstance(amount, int | float):
            raise ValueError(f"{found[0]}: {amount!r} is not a number")
        product = amount * float(factor)
        return round(product) if isinstance(amount, int) else float(f"{product:.12g}")

    if not isinstance(value, str):
        return value
    whole = _HOLE.fullmatch(value)
    return number(whole) if whole else _HOLE.sub(lambda found: str(number(found)), value)


def code_version(program: Program, backends: Sequence[str]) -> str:
    """Hash of all code that computes a run's numbers: the packages' sources, and the versions of what they stand on."""
    entries = entry_points(group="lm.backends")
    modules = [entry.module.partition(".")[0] for entry in entries if entry.name in backends]
    packages = dict.fromkeys(["lm_core", "lm_tokenizer", "lm_pipeline", program.package, *modules])
    versions = [f"{name} {version(name)}" for name in ("numpy", *backends)]
    text = "\n".join([code_hash(packages), platform.python_version(), *versions])
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT]


def data_hash(plan: Plan) -> str:
    """Hash of what a run is trained and evaluated on."""
    text = json.dumps([plan.metadata, plan.tokenizer.fingerprint], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    for batch in plan.evaluation[:1]:
        digest.update(_bytes(batch))
    return digest.hexdigest()[:_SHORT]


def resolved(plan: Plan) -> dict[str, Any]:
    """What a plan makes of a config, by dotted key: model, optimizer, schedule, step and loop."""
    parts: dict[str, Config] = {"model": plan.model, "optimizer": plan.optimizer, "schedule": plan.schedule}
    parts |= {"step": plan.step, "loop": plan.loop}
    return {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.model_dump(mode="json").items()
    }


def _effect(plan: Plan) -> str:
    """Hash of all that two arms can differ in."""
    steps = plan.loop.max_steps
    rates = [learning_rate(plan.schedule, max(1, steps * part // _RATES)) for part in range(_RATES + 1)]
    others = {key: value for key, value in resolved(plan).items() if not key.startswith("schedule.")}
    digest = hashlib.sha256(json.dumps([others, rates], sort_keys=True).encode())
    digest.update(data_hash(plan).encode())
    for step in range(1, min(_LOOKED_AT, steps) + 1):
        digest.update(_bytes(plan.batches.batch(step)))
    for name, array in (plan.weights or {}).items():
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def _bytes(batch: Batch) -> bytes:
    arrays = (batch.inputs, batch.targets, batch.weights, batch.segments)
    return b"".join(b"none" if array is None else str(array.shape).encode() + array.tobytes() for array in arrays)


def _nested(values: Fields) -> dict[str, Any]:
    """Dotted keys as tables."""
    table: dict[str, Any] = {}
    for key, value in flat(values).items():
        *outer, last = key.split(".")
        at = table
        for name in outer:
            at = at.setdefault(name, {})
        at[last] = value
    return table
