"""`uv run apps/mini_gpt/train_bpe.py`: flags -> plan -> session."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lm_core.cli import parse_flags
from lm_core.errors import exit_code_of
from lm_core.run import session
from lm_core.run.folder import run_folder
from lm_core.run.seeds import for_each_seed
from lm_pipeline.training import next_steps_of_seeds
from mini_gpt.flags import Flags
from mini_gpt.resume_policy import POLICY
from mini_gpt.workload import COMMAND, plan, schedule_of

ROOT = Path("runs") / "mini_gpt"


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: for_each_seed(sys.argv[1:], run, next_steps=next_steps_of_seeds), "train_bpe")


def run(argv: Sequence[str]) -> None:
    """One run, new or resumed."""
    flags = parse_flags(Flags, COMMAND, argv)
    folder = run_folder(flags.save_dir, ROOT, resume=flags.resume)
    with session.opened(folder, Flags, POLICY, resume=flags.resume) as known:
        if known:
            flags = parse_flags(Flags, COMMAND, argv, known.base)
        made = plan(flags, folder, argv)
        session.run(made.resumed(known, schedule_of) if known else made, folder)
