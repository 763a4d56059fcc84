"""Runs of equal configs as one group: they differ by the seed alone."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lm_bench.compare.runs import ComparedRun
from lm_bench.study.result import RunResult

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
class Group:
    """Runs of equal configs."""

    label: str
    """In what its config differs from those of the other groups, or where its runs are."""
    runs: tuple[ComparedRun, ...]

    def results(self) -> list[RunResult]:
        """Its runs as results, to be paired by their seeds; those without one are not paired."""
        return [
            RunResult(
                self.label, {}, 0, _seed(run, -1 - index), "", "comparison", "complete", "",
                run.last, run.seconds or 0.0, run.step, None, "", run.folder,
            )
            for index, run in enumerate(self.runs)
        ]  # fmt: skip


def _seed(run: ComparedRun, otherwise: int) -> int:
    seed = run.config.get("seed")
    return seed if isinstance(seed, int) else otherwise


def grouped(runs: Sequence[ComparedRun]) -> list[Group]:
    """The groups, that with the lowest mean of best losses first."""
    configs = [{key: value for key, value in run.config.items() if not _is_of_one_run(key)} for run in runs]
    together: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        together.setdefault(repr(sorted(config.items(), key=lambda item: item[0])), []).append(index)
    members = [tuple(runs[index] for index in indices) for indices in together.values()]
    labels = _labels([configs[indices[0]] for indices in together.values()]) or _places(members)
    groups = [Group(label, group) for label, group in zip(labels, members, strict=True)]
    return sorted(groups, key=lambda group: fmean(run.best for run in group.runs))


def _is_of_one_run(key: str) -> bool:
    return key in _OF_ONE_RUN or key.startswith(_TABLES_OF_ONE_RUN)


def _labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """In what configs differ; none where that is too much, as of other programs."""
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    if not differing:
        return ["all"]
    if len(differing) > _MOST_KEYS:
        return []
    return [", ".join(f"{key} {config.get(key, '-')}" for key in differing) for config in configs]


def _places(groups: Sequence[Sequence[ComparedRun]]) -> list[str]:
    """The folder that has all runs of a group, by as many of its last names as tell the groups apart."""
    paths = [Path(os.path.commonpath([run.folder.resolve() for run in group])).parts for group in groups]
    for count in range(1, max(map(len, paths))):
        names = ["/".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{Path(*parts)}, group {number}" for number, parts in enumerate(paths, 1)]
