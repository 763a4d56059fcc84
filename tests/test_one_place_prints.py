"""Only `lm_core.terminal` prints; and that the guard itself notices."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MACHINES = (
    "lm_bench/faults/server.py",
    "lm_bench/tokenizer/worker.py",
    "lm_bench/train/memory.py",
    "lm_tokenizer/_kernels/build.py",
)
"""Children whose stdout another process reads."""
PLAIN = "lm_bench/peers/guide_script.py"
"""A script to measure against, which prints as such scripts do."""
MAY_PRINT = ("lm_core/terminal.py", PLAIN, *MACHINES)


def prints(source: str) -> Iterator[str]:
    """Calls that write to a standard stream without `lm_core.terminal`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            if call == "print" or call.startswith(("sys.stdout.", "sys.stderr.")):
                yield call


def test_only_the_terminal_module_prints() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix(): calls
        for path in REPOSITORY.glob("*/*/src/**/*.py")
        if not path.as_posix().endswith(MAY_PRINT) and (calls := set(prints(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize("source", ["def f():\n    print('x')", "import sys\nsys.stderr.write('x')"])
def test_the_guard_notices_a_print(source: str) -> None:
    assert list(prints(source))


def test_the_files_that_may_print_are_there() -> None:
    for name in MAY_PRINT:
        assert list(REPOSITORY.glob(f"*/*/src/{name}")), name
