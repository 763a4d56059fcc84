"""The folder of a study: whose it is, and what is known of it besides its runs.

study.toml   study.json   trials/   results.csv   results.parquet   worker-N.log   lock
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm_bench.environment import Environment
from lm_bench.study.config import StudyConfig
from lm_bench.study.differences import Difference
from lm_bench.study.result import STUDY, RunResult, results
from lm_bench.study.tuning import Choice
from lm_core.disk.files import make_folder, write_whole
from lm_core.disk.untrusted import is_scratch, read_regular
from lm_core.errors import UserError
from lm_core.file_names import toml_bytes
from lm_core.run.resume import differences, values_of

ABOUT = "study.json"
_LARGEST = 1 << 24
_MOST = 3
_OF_A_MOMENT = ("date", "load", "line")


@dataclass(frozen=True)
class StudyAbout:
    """What a page says of a study besides its results."""

    code: str
    """Code version: a hash of what computes the runs."""
    machines: list[dict[str, Any]]
    """Each that has run something of it: `lm_bench.environment.Environment`, with its `line`."""
    resolved: dict[str, dict[str, Any]]
    """Arm -> its resolved config, at the first point of the grid and the first budget."""
    differences: list[Difference]
    """What differs between the resolved configs; alarms among them."""
    choices: list[Choice]
    """The point of each arm and budget, as far as they are chosen."""
    alarms: list[str]
    """In words: hidden differences, best points at an edge, arms that are not compared."""
    data: dict[str, str] = field(default_factory=dict)
    """Arm -> hash of what its runs are trained and evaluated on."""

    def write(self, folder: Path) -> None:
        """Keep it in the study's folder.

        Raises:
            OSError: when it cannot be written.
        """
        write_whole(folder / ABOUT, (json.dumps(asdict(self), indent=1, default=str) + "\n").encode())


def read_about(folder: Path) -> StudyAbout:
    """What is known of a study.

    Raises:
        UserError: when its folder does not say.
    """
    try:
        said = json.loads(read_regular(folder / ABOUT, _LARGEST))
        differing = [Difference(**one) for one in said.pop("differences")]
        if "environment" in said:  # as versions before 2026-11-27 wrote it
            said["machines"] = [said.pop("environment")]
        choices = [Choice(**{**one, "edges": tuple(one["edges"])}) for one in said.pop("choices")]
        return StudyAbout(**said, differences=differing, choices=choices)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder / ABOUT} is damaged: run the study in another --save_dir") from None


def machines_with(known: list[dict[str, Any]], here: Environment) -> list[dict[str, Any]]:
    """Machines as `StudyAbout` has them, and this one, if it is not among them."""
    mine = {**asdict(here), "line": here.line}

    def lasting(machine: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in machine.items() if key not in _OF_A_MOMENT}

    return known if lasting(mine) in map(lasting, known) else [*known, mine]


def read_study(folder: Path) -> StudyConfig:
    """The study that a folder is of.

    Raises:
        UserError: when it is of none.
    """
    if not (folder / STUDY).is_file():
        raise UserError(f"{folder} is not the folder of a study: it has no {STUDY}")
    return StudyConfig.load(folder / STUDY)


def counted(folder: Path, about: StudyAbout) -> list[RunResult]:
    """The runs that a study's answer is made of: the tuning, and what is compared at the points that it chose.

    A study whose failed runs were run again may have chosen others before.

    Raises:
        UserError: when it is not the folder of a study.
    """
    points = {(one.arm, one.budget): one.point for one in about.choices}
    return [run for run in results(folder) if run.stage == "tuning" or run.point == points.get((run.arm, run.budget))]


def check_folder(folder: Path, study: StudyConfig, code: str, data: dict[str, str]) -> StudyAbout | None:
    """Refuse a folder that holds results of another study, code version or data; returns what is known of it.

    Raises:
        UserError: saying what differs.
    """
    advice = "give another --save_dir, or move it away"
    if not (folder / STUDY).exists():
        if folder.is_dir() and any(path.name != "lock" and not is_scratch(path.name) for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty, and not the folder of a study: {advice}")
        return None
    differing = [change.key for change in differences(values_of(read_study(folder)), values_of(study))]
    if differing:
        more = f" and {len(differing) - _MOST} more" if len(differing) > _MOST else ""
        raise UserError(
            f"{folder} has the results of another study: {', '.join(differing[:_MOST])}{more} differ; {advice}"
        )
    if not (folder / ABOUT).exists():
        if results(folder):
            raise UserError(f"{folder} has results and no {ABOUT}, so of which code and data is not known: {advice}")
        return None
    before = read_about(folder)
    if before.code != code:
        raise UserError(f"{folder} has the results of code version {before.code}, and this is {code}: {advice}")
    if changed := [arm for arm, digest in data.items() if before.data.get(arm, digest) != digest]:
        raise UserError(f"{folder} has results of other data: what {', '.join(changed)} reads has changed; {advice}")
    return before


def prepare_folder(folder: Path, study: StudyConfig) -> None:
    """Make the folder and write the study into it, once.

    Raises:
        UserError: when it cannot be written to.
    """
    try:
        make_folder(folder)
        if not (folder / STUDY).exists():
            write_whole(folder / STUDY, toml_bytes(study.to_toml()))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None


def write_all(folder: Path, about: StudyAbout, tables: Sequence[tuple[str, bytes]]) -> None:
    """Write what is known and the tables of results.

    Raises:
        UserError: when it cannot be written.
    """
    try:
        about.write(folder)
        for name, content in tables:
            write_whole(folder / name, content)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
