"""For every suite: one thread, because the models in tests are so small that a second one costs more than it gives.

Set OMP_NUM_THREADS to try another number.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # as in many containers: each process would compile all of torch
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parent / ".pytest_cache" / "bytecode")

_MOST_WORKERS = 8
"""Each worker holds both frameworks, about a gigabyte."""

# A machine that is busy is no failure: how long a test takes is not what it states.
with contextlib.suppress(ImportError):
    import hypothesis

    # The same examples on every run: one that fails is for whoever looks for it (`--hypothesis-profile search`), and
    # not for whoever changes something else. A `--hypothesis-seed` has an effect with that profile alone.
    hypothesis.settings.register_profile("patient", deadline=None, derandomize=True)
    hypothesis.settings.register_profile("search", deadline=None)
    hypothesis.settings.load_profile("patient")


def pytest_xdist_auto_num_workers() -> int:
    """How many workers `-n auto` starts; 0, where there is one core, runs the tests in this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS) if cores > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """Load both backends where tests run, each with the BLAS that it has alone in the processes that tests start.

    torch binds its own when it is loaded, if lm_mlx has not put OpenBLAS before it; and lm_mlx comes before mlx.core.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script; tests send it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        return  # this process only hands tests out
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
    with contextlib.suppress(ImportError):
        import lm_mlx  # noqa: F401
    with contextlib.suppress(ImportError):
        from lm_core import page

        global _picture
        _picture = page.picture
        page.picture = lambda *_: "data:,"


_picture: Any = None
"""What draws a figure of a page: longer than most runs of the tests take."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn; elsewhere the pages of this process have none in their places."""
    from lm_core import page

    monkeypatch.setattr(page, "picture", _picture)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cuda():
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def _cuda() -> bool:
    with contextlib.suppress(ImportError):
        import torch

        return bool(torch.cuda.is_available())
    return False
