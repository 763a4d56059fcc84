"""Backends are found by name, and one that is not there says which package to install."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from lm_core import backend
from lm_core.errors import UserError


class Found:
    """A backend."""

    name = "found"


def install(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    entries = [EntryPoint(name, target, "lm.backends") for name, target in targets.items()]
    monkeypatch.setattr(backend, "entry_points", lambda group: [e for e in entries if e.group == group])


def test_a_backend_that_is_not_installed_is_refused_naming_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    for name in ("torch", "mlx"):
        with pytest.raises(
            UserError, match=f"backend '{name}' is not installed: pip install ./packages/lm-core ./packages/lm-{name}$"
        ):
            backend.load_backend(name)


def test_a_backend_whose_framework_is_missing_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, mlx="no_such_module:Backend")
    with pytest.raises(UserError, match=r"'mlx' cannot be imported .*no_such_module.*; reinstall the package lm-mlx"):
        backend.load_backend("mlx")


def test_a_backend_is_made_from_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "found_backend", type(sys)("found_backend"))
    monkeypatch.setattr(sys.modules["found_backend"], "Found", Found, raising=False)
    install(monkeypatch, found="found_backend:Found")
    assert isinstance(backend.load_backend("found"), Found)


@pytest.mark.parametrize(
    ("platform", "machine", "name"),
    [
        ("darwin", "arm64", "mlx"),
        ("darwin", "x86_64", "torch"),
        ("linux", "x86_64", "torch"),
        ("linux", "arm64", "torch"),
    ],
)
def test_the_default_is_mlx_on_apple_silicon_and_torch_elsewhere(
    monkeypatch: pytest.MonkeyPatch, platform: str, machine: str, name: str
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("platform.machine", lambda: machine)
    install(monkeypatch)
    assert backend.default_backend() == name
    with pytest.raises(UserError, match=f"lm-{name}"):
        backend.load_backend("auto")


def test_no_framework_is_imported_before_one_is_asked_for() -> None:
    program = """
import importlib, pkgutil, sys
import lm_core
for module in pkgutil.walk_packages(lm_core.__path__, "lm_core."):
    importlib.import_module(module.name)
print([name for name in ("torch", "mlx", "kbeta", "lm_torch", "lm_mlx", "matplotlib") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"
