"""Results of a study's runs, as its folder keeps them.

trials/<hash>.toml            config of the run, by which the app can be run by hand
trials/<hash>/                its run folder
trials/<hash>/outcome.json    how it ended: a result, also where it diverged or failed
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from lm_bench.study.config import Scalar
from lm_core.disk.files import write_whole
from lm_core.disk.untrusted import read_regular
from lm_core.errors import UserError

Status = Literal["complete", "diverged", "failed", "out of memory"]
Stage = Literal["tuning", "comparison"]
STUDY, TRIALS, OUTCOME = "study.toml", "trials", "outcome.json"
_LARGEST = 1 << 16


@dataclass(frozen=True)
class RunResult:
    """One finished run."""

    arm: str
    point: dict[str, Scalar]
    """Values of the tuned fields."""
    budget: int
    """Steps of its schedule."""
    seed: int
    backend: str
    stage: Stage
    """Whether it chose the point of its arm, or is compared."""
    status: Status
    message: str
    """Why it is not complete; empty where it is."""
    metric: float | None
    """The study's metric; None where the run has none."""
    seconds: float
    """Of training, without what comes before the first step."""
    steps_done: int
    peak_bytes: int | None
    config_hash: str
    """Hash of the resolved config, the data and the code version."""
    folder: Path
    """Its run folder."""

    def write(self) -> None:
        """Keep the result in its run folder.

        Raises:
            OSError: when it cannot be written.
        """
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / OUTCOME, (json.dumps(values, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The result in a run folder; None where it has none that can be read."""
        try:
            return cls(**json.loads(read_regular(folder / OUTCOME, _LARGEST)), folder=folder)
        except (OSError, ValueError, TypeError, RecursionError):
            return None


def results(study_folder: Path) -> list[RunResult]:
    """The finished runs of a study, ordered by stage, budget, arm, point, backend and seed.

    Raises:
        UserError: when it is not the folder of a study.
    """
    if not (study_folder / STUDY).is_file():
        raise UserError(f"{study_folder} is not the folder of a study: it has no {STUDY}")
    found = [RunResult.read(path.parent) for path in (study_folder / TRIALS).glob(f"*/{OUTCOME}")]
    return sorted(filter(None, found), key=_order)


def _order(run: RunResult) -> tuple[object, ...]:
    return run.stage != "tuning", run.budget, run.arm, json.dumps(run.point), run.backend, run.seed
