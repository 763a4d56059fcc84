"""`uv run apps/gpt train|evaluate|attention|sample`: the commands of lm-pipeline, one word each.

A config of configs/gpt2_*.toml is all that tells one run from another.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

from lm_core.errors import exit_code_of
from lm_pipeline.commands import attention, evaluate, infer, train
from lm_pipeline.commands.train_plan import Typed
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.inside.config import AttentionConfig
from lm_pipeline.program import run_program, run_subcommand

COMMAND = "uv run apps/gpt"
TRAIN = Typed(f"{COMMAND} train", f"{COMMAND} train", f"{COMMAND} sample")
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int | None]]] = {
    "train": (
        "train, or resume, from token files or from text that is encoded meanwhile",
        lambda words: train.run_command(words, TRAIN),
    ),
    "evaluate": (
        "bits per byte, accuracy, loss by position, calibration",
        lambda words: run_program(evaluate.EvaluateConfig, f"{COMMAND} evaluate", evaluate.evaluate_saved, words),
    ),
    "attention": (
        "what each head does, as arrays and a page",
        lambda words: run_program(AttentionConfig, f"{COMMAND} attention", attention.attention, words),
    ),
    "sample": (
        "continue prompts",
        lambda words: run_program(InferConfig, f"{COMMAND} sample", infer.infer, words),
    ),
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
