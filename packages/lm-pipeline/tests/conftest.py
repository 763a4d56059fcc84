"""A small tokenizer, a small corpus, and the command lines as functions."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lm_core.cli import parse_flags
from lm_core.model.init import initial_arrays
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.run.state import RunState
from lm_pipeline.commands import infer, make_data, train, train_tokenizer
from lm_pipeline.commands.train_config import TrainConfig
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


@pytest.fixture
def planned() -> Callable[..., Plan]:
    """What a command line of transformerlm-train comes to, up to the framework: nothing is trained or prepared."""

    def plan(*flags: str) -> Plan:
        plans = list[Plan]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "run", lambda plan, _folder: plans.append(plan))
            train.train(parse_flags(TrainConfig, "train", flags), flags)
        plans[0].check_fits()
        return plans[0]

    return plan


@pytest.fixture
def save_run() -> Callable[..., Checkpoints]:
    """What a run of a plan leaves that has come to a step, in the folder `run`."""

    def save(plan: Plan, step: int, **metadata: object) -> Checkpoints:
        folder = RunFolder(Path("run"))
        if not plan.tokenizer.is_saved_in(folder.tokenizer):
            plan.tokenizer.save(folder.tokenizer)
        folder.prepare(plan.config_toml())
        shapes = state_shapes(plan.optimizer, parameter_table(plan.model))
        state = {name: np.ones(shape, np.int64 if name == "step" else np.float32) for name, shape in shapes.items()}
        of_loop = {"step": step, "val_loss": 5.0, "state": {**vars(RunState()), "step": step}}
        checkpoints = Checkpoints(folder.checkpoints, plan.keep)
        checkpoints.save(initial_arrays(plan.model, step), state, {**plan.checkpoint_metadata(), **of_loop, **metadata})
        return checkpoints

    return save
