"""A small tokenizer, a small corpus, and the command lines as functions."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_tokenizer import Tokenizer
from transformerlm import make_data, train_tokenizer

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
