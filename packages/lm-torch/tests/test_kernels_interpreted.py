"""The tests of the kernels on a CPU: Triton's interpreter has to be asked for before Triton is imported."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNEL_TESTS = "test_kernels.py", "test_kernels_decode.py", "test_kernels_mlp.py", "test_kernels_update.py"
PYTEST = "import pytest, sys, torch; torch.use_deterministic_algorithms(True); sys.exit(pytest.main(sys.argv[1:]))"
"""Pytest with memory that torch fills with NaN where nothing is written, so that a kernel that reads it is seen."""


def triton_version() -> tuple[int, ...]:
    """Of the Triton that is installed; (0,) without one."""
    if importlib.util.find_spec("triton") is None:
        return (0,)
    return tuple(int(part) for part in importlib.metadata.version("triton").split("+")[0].split(".")[:2])


# The interpreter of Triton 3.6, which torch 2.11 has, reads numbers out of arrays as numpy has given up doing.
@pytest.mark.skipif(
    triton_version() < (3, 7), reason="no Triton, or one whose interpreter does not work with numpy 2.4"
)
@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_are_their_twins_in_triton_s_interpreter(marked: str) -> None:
    tests = [str(HERE / name) for name in KERNEL_TESTS]
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", "-m", marked, *tests]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-c", PYTEST, *arguments],
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
