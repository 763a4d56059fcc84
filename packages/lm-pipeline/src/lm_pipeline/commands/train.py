"""`transformerlm-train`: token files -> run folder.

config --plan_run--> plan --lm_core.run.session--> run folder, which is all that inference needs
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lm_core.cli import parse_flags
from lm_core.errors import UserError, exit_code_of
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.resume import recorded
from lm_core.run.seeds import for_each_seed
from lm_core.terminal import say
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import PROGRAM, folder_of, plan_run
from lm_pipeline.commands.train_resume import POLICY, Resumed
from lm_pipeline.program import run_program
from lm_pipeline.saved_model import newest_run
from lm_pipeline.training import next_steps_of_seeds


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: for_each_seed(sys.argv[1:], run, next_steps=next_steps_of_seeds), PROGRAM)


def run(argv: Sequence[str]) -> int:
    """One run, new or resumed; returns the exit code."""
    return run_program(TrainConfig, PROGRAM, partial(train, argv=argv), argv, parse=parse_train)


def parse_train(cls: type[TrainConfig], program: str, argv: Sequence[str]) -> TrainConfig:
    """The config of the command line; with --resume, over that of the run.

    Raises:
        UserError: as `parse_flags`, and when there is no run to resume.
    """
    config = parse_flags(cls, program, argv)
    if not config.resume:
        return config
    folder = RunFolder(Path(config.save_dir) if config.save_dir else newest_run("--resume"))
    if not folder.holds_run():
        raise UserError(f"--resume: {folder.path} holds no run")
    try:
        known = recorded(cls, POLICY, folder, Checkpoints(folder.checkpoints).newest_facts())
        saved = parse_flags(cls, program, argv, known.base)
    except UserError as error:
        raise UserError(f"--resume, over the config of {folder.path}: {error}") from None
    return saved.model_copy(update={"save_dir": str(folder.path), "resume": True})


def train(config: TrainConfig, argv: Sequence[str] = ()) -> None:
    """One run, new or resumed; `argv` is what was typed, for the report.

    Raises:
        UserError: for a mistake in the config or what it names; nothing has been written then.
        NonFiniteError: when training diverges.
    """
    folder = folder_of(config)
    with session.opened(folder, resume=config.resume) as checkpoint:
        resumed = None
        if checkpoint:  # read under the lock: its config is the one that counts
            known = recorded(TrainConfig, POLICY, folder, checkpoint.facts)
            if known.doubt:
                say(known.doubt)
            resumed = Resumed(checkpoint, known.before)
        session.run(plan_run(config, folder, resumed, argv), folder)


if __name__ == "__main__":
    sys.exit(main())
