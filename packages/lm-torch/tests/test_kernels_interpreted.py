"""The tests of the kernels on a CPU: Triton's interpreter has to be asked for before Triton is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("tests", ["test_kernels.py", "test_kernels_decode.py"])
def test_the_kernels_are_their_twins_in_triton_s_interpreter(tests: str) -> None:
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", "-m", "", str(HERE / tests)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=HERE.parents[2],
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_importing_lm_torch_does_not_import_triton() -> None:
    code = "import sys, lm_torch.backend, lm_torch.model; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
