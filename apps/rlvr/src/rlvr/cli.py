"""`uv run apps/rlvr pretrain|...`: one word each, and one TOML file for all of them (`rlvr.flags`)."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lm_core.errors import exit_code_of
from lm_core.run.app import App
from lm_core.run.seeds import for_each_seed
from lm_pipeline.program import run_subcommand
from lm_pipeline.training import next_steps_of_seeds
from rlvr import evaluate, play, pretrain, train

COMMAND = "uv run apps/rlvr"


def _series(app: App[Any], words: Sequence[str]) -> int | None:
    """One run, or one for each of the `--seeds`."""
    return for_each_seed(words, app.run, next_steps=next_steps_of_seeds)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int | None]]] = {
    "pretrain": ("supervised training on noisy demonstrations", partial(_series, pretrain.APP)),
    "train": ("reinforcement learning from a pretrained model's own answers", partial(_series, train.APP)),
    "evaluate": ("pass@1 and pass@k on held-out problems, by level", evaluate.main),
    "play": ("type a problem, and watch the answer and its verdict", play.main),
}


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(partial(run, sys.argv[1:]), COMMAND)


def run(argv: Sequence[str]) -> int | None:
    """Run the command that the first word names; returns the exit code.

    Raises:
        UserError: when it names none.
    """
    return run_subcommand(COMMAND, COMMANDS, argv)
