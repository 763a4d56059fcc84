"""transformer_lm in this process, on small texts."""

import os
import random
from pathlib import Path

import pytest

from lm_core.errors import exit_code_of
from transformer_lm import cli

from .runs import LAYOUTS, SMALL, App, Done


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small texts in the layouts that the datasets are found in, a folder each."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)

    def text(lines: int) -> str:
        return "".join(" " + " ".join(f"w{draw.randrange(30)}" for _ in range(10)) + " \n" for _ in range(lines))

    for name, (_, pattern) in LAYOUTS.items():
        (folder / name).mkdir()
        for split, lines in {"train": 60, "valid": 8, "test": 8}.items():
            (folder / name / pattern.format(split)).write_text(text(lines))
    (folder / "bytes" / "enwik8").write_bytes(b"<page>\xff\x00\x1b[31m" + text(100).encode())
    return folder


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> App:
    """The program, in this process and an empty folder; flushing is tested elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def call(*words: object) -> Done:
        capsys.readouterr()
        code = exit_code_of(lambda: cli.run([*map(str, words)]), "transformer_lm")
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def train(app: App, data: Path) -> App:
    """A small run on the words of `ptb`, validated every 5 iterations, logged at every one, that succeeds."""

    def call(*words: object) -> Done:
        done = app("--data_dir", data / "ptb", *SMALL, "--steps_per_report", 1, "--steps_per_eval", 5, *words)
        assert done.code == 0, done.err
        return done

    return call
