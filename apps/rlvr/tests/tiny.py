"""The program with its smallest model, run in a folder of its own."""

import sys
from collections.abc import Callable

import pytest

from rlvr import cli

SMALL = (
    "--seq_len 16 --d_model 16 --n_layers 1 --n_heads 2 --batch_size 4 --steps 4 --eval_batches 1 --eval_every 2"
    " --save_every 2 --log_every 1 --tasks chain --max_level 1"
)
Call = Callable[..., tuple[int, str, str]]
"""Runs the program; returns its exit code and what it printed to stdout and to stderr."""


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlvr", *words.split()])
        capsys.readouterr()
        code = cli.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
