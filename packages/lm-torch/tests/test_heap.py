"""Memory that a step frees is taken again without asking the system, unless the user has chosen otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from lm_torch import heap

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are calls of glibc")

TAKES_TWICE = """
import resource, sys, torch
from lm_core.config import StepConfig
from lm_core.testing import ADAMW, MODELS
from lm_torch import heap
from lm_torch.engine import Engine, make_model

heap.SMALLEST = int(sys.argv[1])

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(25_000_000).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

make_model(next(iter(MODELS.values())), StepConfig(), torch.device("cpu"))
if sys.argv[2] == "trained":
    Engine(next(iter(MODELS.values())), ADAMW, StepConfig(), torch.device("cpu"))
faults()
print(faults())
"""


def faults_of_100_mb(smallest: int = 1, how: str = "trained", **variables: str) -> int:
    """Pages that are faulted in when 100 MB are taken for the second time, beside a small model."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = [sys.executable, "-c", TAKES_TWICE, str(smallest), how]
    done = subprocess.run(run, env=environment | variables, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_was_freed_is_not_faulted_in_again() -> None:
    assert faults_of_100_mb() < 20


def test_what_a_small_model_or_a_decoder_frees_is_given_back() -> None:
    # 49 huge pages, or 24,415 small ones.
    assert faults_of_100_mb(heap.SMALLEST) > 40
    assert faults_of_100_mb(how="read") > 40


@pytest.mark.parametrize(
    "variables",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}],
    ids=["variable", "tunable"],
)
def test_the_users_own_setting_stands(variables: dict[str, str]) -> None:
    assert faults_of_100_mb(**variables) > 40
