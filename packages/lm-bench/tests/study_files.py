"""A study of the tests' own program, as a file and as a planner."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lm_bench import cli
from lm_bench.study.config import StudyConfig
from lm_bench.study.plan import Planner
from lm_core.file_names import toml_document
from lm_pipeline.trials.program import program_of

HERE = Path(__file__).parent
STUDY: dict[str, Any] = {
    "name": "small",
    "question": "Is A better than B?",
    "app": "study_app",
    "smallest_effect": 0.01,
    "budgets": [4],
    "seeds": 2,
    "tuned": {"lr": [0.1, 0.3]},
    "arms": {"A": {"beta2": 0.9}, "B": {"beta2": 0.95}},
}


BACKED = pytest.mark.skipif(find_spec("lm_torch") is None, reason="a study names a backend, and none is installed")


def planner(**changes: Any) -> Planner:
    study = StudyConfig.parse({**STUDY, **changes}, "study.toml")
    return Planner(study, program_of(study.app), "study.toml")


def write_study(folder: Path, **changes: Any) -> Path:
    path = folder / "study.toml"
    path.write_text(toml_document({**STUDY, **changes}))
    return path


def study_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, int]]:
    """`lm-bench study` in this process, whose workers alone are others: gives what it prints, and its exit code."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def run(*words: object) -> tuple[str, int]:
        code = cli.run(["study", *map(str, words)])
        said = capsys.readouterr()
        return said.out + said.err, code

    return run


def command(folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """`lm-bench study` in a process of its own, whose working folder is `folder`."""
    code = "import sys; from lm_bench.cli import main; from lm_core.page import leave_pictures_out as out"
    code = f"{code}; out(); sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(HERE), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", code, "study", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
