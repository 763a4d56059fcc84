"""test_kernels.py on a CPU, in a process: Triton's interpreter has to be asked for before Triton is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("test_kernels.py")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_are_their_twins_in_triton_s_interpreter() -> None:
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", "-m", "", str(TESTS)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=TESTS.parents[3],
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_importing_lm_torch_does_not_import_triton() -> None:
    code = "import sys, lm_torch.backend, lm_torch.model; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
