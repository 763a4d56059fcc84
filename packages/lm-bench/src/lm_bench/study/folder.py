"""The folder of a study: whose it is, and what is known of it besides its runs.

study.toml   study.json   trials/   results.csv   results.parquet   worker-N.log   lock
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm_bench.environment import Environment
from lm_bench.study.config import StudyConfig
from lm_bench.study.differences import Difference
from lm_bench.study.result import STUDY
from lm_bench.study.tuning import Choice
from lm_core.disk.files import make_folder, write_whole
from lm_core.disk.untrusted import is_scratch, read_regular
from lm_core.errors import UserError
from lm_core.file_names import toml_bytes
from lm_core.run.resume import differences, values_of

ABOUT = "study.json"
_LARGEST = 1 << 24
_MOST = 3


@dataclass(frozen=True)
class StudyAbout:
    """What a page says of a study besides its results."""

    code: str
    """Code version: a hash of what computes the runs."""
    environment: dict[str, Any]
    """`lm_bench.environment.Environment`, with its `line`."""
    resolved: dict[str, dict[str, Any]]
    """Arm -> its resolved config, at the first point of the grid and the first budget."""
    differences: list[Difference]
    """What differs between the resolved configs; alarms among them."""
    choices: list[Choice]
    """The point of each arm and budget, as far as they are chosen."""
    alarms: list[str]
    """In words: hidden differences, best points at an edge, arms that are not compared."""

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
        choices = [Choice(**{**one, "edges": tuple(one["edges"])}) for one in said.pop("choices")]
        return StudyAbout(**said, differences=differing, choices=choices)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder / ABOUT} cannot be read: run the study again, which keeps its results") from None


def environment_of(environment: Environment) -> dict[str, Any]:
    """An environment as `StudyAbout` has it."""
    return {**asdict(environment), "line": environment.line}


def read_study(folder: Path) -> StudyConfig:
    """The study that a folder is of.

    Raises:
        UserError: when it is of none.
    """
    if not (folder / STUDY).is_file():
        raise UserError(f"{folder} is not the folder of a study: it has no {STUDY}")
    return StudyConfig.load(folder / STUDY)


def check_folder(folder: Path, study: StudyConfig, code: str) -> None:
    """Refuse a folder that holds the results of another study, or of another code version.

    Raises:
        UserError: saying what differs.
    """
    advice = "give another --save_dir, or move it away"
    if not (folder / STUDY).exists():
        if folder.is_dir() and any(path.name != "lock" and not is_scratch(path.name) for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty, and not the folder of a study: {advice}")
        return
    differing = [change.key for change in differences(values_of(read_study(folder)), values_of(study))]
    if differing:
        more = f" and {len(differing) - _MOST} more" if len(differing) > _MOST else ""
        raise UserError(
            f"{folder} has the results of another study: {', '.join(differing[:_MOST])}{more} differ; {advice}"
        )
    if (folder / ABOUT).exists() and (before := read_about(folder).code) != code:
        raise UserError(f"{folder} has the results of code version {before}, and this is {code}: {advice}")


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
