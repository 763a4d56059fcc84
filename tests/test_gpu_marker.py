"""Tests marked `gpu` run where torch sees a CUDA device, and are deselected elsewhere."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest


class Item(SimpleNamespace):
    def get_closest_marker(self, name: str) -> bool:
        return name in self.markers


@pytest.mark.parametrize(("cuda", "kept"), [(False, ["plain"]), (True, ["plain", "on the device"])])
def test_a_gpu_test_is_deselected_without_a_device(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cuda: bool, kept: list[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    items: Any = [Item(name="plain", markers=[]), Item(name="on the device", markers=["gpu"])]
    gone: list[Any] = []
    config: Any = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: gone.extend(items)))
    hook(request.config)(config, items)
    assert [item.name for item in items] == kept
    assert [item.name for item in items + gone] == ["plain", "on the device"]


def hook(config: pytest.Config) -> Callable[..., None]:
    """The one of the conftest.py beside the root's pyproject.toml."""
    path = config.rootpath / "conftest.py"
    plugins = [p for p in config.pluginmanager.get_plugins() if getattr(p, "__file__", None) == str(path)]
    return plugins[0].pytest_collection_modifyitems
