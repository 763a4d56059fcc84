"""Runs of equal configs as one group: mean and spread of what differs by the seed alone."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_bench.compare.runs import ComparedRun, Curve

_OF_ONE_RUN = (
    "seed",
    "save_dir",
    "resume",
    "config",
    "print_config",
    "new_model",
    "identifier",
    "inference",
    "data_dir",
)
"""Keys that tell runs apart and not what they do."""
_TABLES_OF_ONE_RUN = ("logging.", "wandb.")
_MOST_KEYS = 4


@dataclass(frozen=True)
class Spread:
    """Some numbers of a group."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None of a single run."""
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.deviation is None else f"{self.mean:.4f} ± {self.deviation:.4f}"


@dataclass(frozen=True)
class Group:
    """Runs of equal configs."""

    label: str
    """In what its config differs from those of the other groups."""
    runs: tuple[ComparedRun, ...]

    @property
    def last(self) -> Spread:
        """Of the last losses."""
        return spread([run.last for run in self.runs])

    @property
    def best(self) -> Spread:
        """Of the lowest losses."""
        return spread([run.best for run in self.runs])

    def mean_curve(self) -> list[tuple[int, Spread]]:
        """The losses at the steps that all of its runs have."""
        curves: list[dict[int, float]] = [dict(run.losses) for run in self.runs]
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        return [(step, spread([curve[step] for curve in curves])) for step in steps]


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and range of one or more numbers."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, min(values), max(values))


def grouped(runs: Sequence[ComparedRun]) -> list[Group]:
    """The groups, that with the lowest mean of best losses first."""
    configs = [{key: value for key, value in run.config.items() if not _is_of_one_run(key)} for run in runs]
    together: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        together.setdefault(repr(sorted(config.items(), key=lambda item: item[0])), []).append(index)
    members = list(together.values())
    firsts = [configs[indices[0]] for indices in members]
    groups = [
        Group(_label(first, firsts, runs[indices[0]]), tuple(runs[index] for index in indices))
        for first, indices in zip(firsts, members, strict=True)
    ]
    return sorted(groups, key=lambda group: group.best.mean)


def _is_of_one_run(key: str) -> bool:
    return key in _OF_ONE_RUN or key.startswith(_TABLES_OF_ONE_RUN)


def _label(config: dict[str, Any], all_configs: list[dict[str, Any]], run: ComparedRun) -> str:
    keys = dict.fromkeys(key for other in all_configs for key in other)
    differing = [key for key in keys if len({repr(other.get(key)) for other in all_configs}) > 1]
    if not differing or len(differing) > _MOST_KEYS:  # of other programs, or of one config
        return run.folder.resolve().name if differing else "all"
    return ", ".join(f"{key} {config.get(key, '-')}" for key in differing)


def thinned(curve: Curve, most: int = 500) -> Curve:
    """A curve of at most so many means of neighbours, which a picture has room for."""
    size = max(1, -(-len(curve) // most))
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[len(part) // 2][0], statistics.fmean(loss for _, loss in part)) for part in parts]
