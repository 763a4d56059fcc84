"""Exported models, and no waiting for the disk."""

import os
from pathlib import Path

import pytest

from lm_core.interchange.folder import export_model
from lm_core.run.folder import RunFolder
from lm_core.testing import rough_arrays

from .small_exports import GPT2, LLAMA


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush is for the day the power fails, which a test plays by what it puts in the flush's place."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    export_model(tmp_path / "gpt2", GPT2, rough_arrays(GPT2))
    return tmp_path / "gpt2"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    export_model(tmp_path / "llama", LLAMA, rough_arrays(LLAMA))
    return tmp_path / "llama"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")
