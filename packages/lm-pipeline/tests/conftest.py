"""A small tokenizer, a small corpus, and the command lines as functions."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_pipeline.commands import infer, make_data, train, train_tokenizer
from lm_pipeline.tokens.config import MakeDataConfig
from lm_tokenizer import Tokenizer

WORDS = "the quick brown fox jumps over a lazy dog, and it's 1,234 times naïve: 東京 is far \U0001f600"
Run = Callable[..., int]


def prose(words: int, seed: int = 1) -> str:
    """Text of so many words, some of them not ASCII."""
    state, out, known = seed, [], WORDS.split()
    for _ in range(words):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        out.append(known[(state >> 16) % len(known)])
    return " ".join(out) + "\n"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush is for the day the power fails, which no test here plays; a kill loses nothing that was written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train([prose(2000)], 300, ["<|endoftext|>"], progress=False).save(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer_folder: Path) -> Path:
    """An empty current folder, but for the tokenizer as `tok`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tok").symlink_to(tokenizer_folder)
    return tmp_path


def program(main: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
        return main()

    return run


@pytest.fixture
def run_make_data(monkeypatch: pytest.MonkeyPatch) -> Run:
    return program(make_data.main, monkeypatch)


@pytest.fixture
def run_train_tokenizer(monkeypatch: pytest.MonkeyPatch) -> Run:
    return program(train_tokenizer.main, monkeypatch)


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """Token files of the small corpus."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "text.txt").write_text("<|endoftext|>".join(prose(60, seed) for seed in range(20)))
    config = {"train": [str(folder / "text.txt")], "tokenizer": str(tokenizer_folder), "output": str(folder / "out")}
    values = {**config, "separator": "<|endoftext|>", "validation_fraction": 0.2, "threads": 1}
    make_data.make_data(MakeDataConfig.parse(values))
    return folder / "out"


@pytest.fixture
def workplace(folder: Path, token_folder: Path) -> Path:
    """The current folder, with the tokenizer as `tok` and the token files as `tokens`."""
    (folder / "tokens").symlink_to(token_folder)
    return folder


@pytest.fixture
def run_train(monkeypatch: pytest.MonkeyPatch) -> Run:
    return program(train.main, monkeypatch)


@pytest.fixture
def run_infer(monkeypatch: pytest.MonkeyPatch) -> Run:
    return program(infer.main, monkeypatch)
