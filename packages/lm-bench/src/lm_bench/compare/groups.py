"""Runs of equal configs as one group: they differ by the seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    """In what its config differs from those of the other groups."""
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
    members = list(together.values())
    firsts = [configs[indices[0]] for indices in members]
    groups = [
        Group(_label(first, firsts, runs[indices[0]]), tuple(runs[index] for index in indices))
        for first, indices in zip(firsts, members, strict=True)
    ]
    return sorted(groups, key=lambda group: fmean(run.best for run in group.runs))


def _is_of_one_run(key: str) -> bool:
    return key in _OF_ONE_RUN or key.startswith(_TABLES_OF_ONE_RUN)


def _label(config: dict[str, Any], all_configs: list[dict[str, Any]], run: ComparedRun) -> str:
    keys = dict.fromkeys(key for other in all_configs for key in other)
    differing = [key for key in keys if len({repr(other.get(key)) for other in all_configs}) > 1]
    if not differing or len(differing) > _MOST_KEYS:  # of other programs, or of one config
        return run.folder.resolve().name if differing else "all"
    return ", ".join(f"{key} {config.get(key, '-')}" for key in differing)
