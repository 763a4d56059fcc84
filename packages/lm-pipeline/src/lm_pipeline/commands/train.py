"""`transformerlm-train`: token files -> run folder.

config --plan_run--> plan --lm_core.run.session--> run folder, which is all that inference needs
"""

import sys
from collections.abc import Sequence
from functools import partial

from lm_core.cli import parse_flags
from lm_core.errors import UserError
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.ranks import exit_code_of, one_folder
from lm_core.run.resume import Recorded, recorded
from lm_core.run.seeds import for_each_seed
from lm_core.world import current
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import OWN, Typed, check_values, folder_of, plan_run
from lm_pipeline.commands.train_resume import POLICY, check_source
from lm_pipeline.commands.train_source import with_source
from lm_pipeline.program import run_program
from lm_pipeline.training import next_steps_of_seeds
from lm_pipeline.trials.program import Program


def main() -> int:
    """The program; returns its exit code."""
    return run_command(sys.argv[1:])


def run_command(argv: Sequence[str], typed: Typed = OWN) -> int:
    """One run, or one for each of its --seeds; `typed` is the command that `argv` follows. Returns the exit code."""
    next_steps = next_steps_of_seeds
    return exit_code_of(lambda: for_each_seed(argv, partial(run, typed=typed), next_steps=next_steps), typed.program)


def run(argv: Sequence[str], typed: Typed = OWN) -> int:
    """One run, new or resumed; returns the exit code."""
    return run_program(TrainConfig, typed.program, lambda config: train(config, argv, typed), argv, parse=_parse)


def _parse(cls: type[TrainConfig], program: str, argv: Sequence[str]) -> TrainConfig:
    """The config of the command line; the one to print is over that of the run."""
    config = parse_flags(cls, program, argv)
    if not (config.resume and config.print_config):
        return config
    folder = folder_of(config)
    return _over(recorded(cls, POLICY, folder, session.newest_checkpoint(folder)), folder, argv)


def train(config: TrainConfig, argv: Sequence[str] = (), typed: Typed = OWN) -> None:
    """One run, new or resumed.

    Args:
        config: of the run.
        argv: command line that gave the config, if any: to resume, its flags go over the config of the run.
        typed: the command that it follows.

    Raises:
        UserError: for a mistake in the config or what it names; nothing has been written then.
        NonFiniteError: when training diverges.
    """
    folder = one_folder(lambda: folder_of(config), current(), f"folder of {' '.join(argv)}")
    with session.opened(folder, TrainConfig, POLICY, resume=config.resume) as known:
        if known and argv:
            config = _over(known, folder, argv)
        if known:
            check_source(known, config)
        check_values(config, known)  # before text is encoded for it
        with with_source(config) as (filled, keep):
            plan = plan_run(filled, folder, known, argv, typed)
            keep()
            session.run(plan, folder)


def _over(known: Recorded[TrainConfig], folder: RunFolder, argv: Sequence[str]) -> TrainConfig:
    """The config of the command line over that of the run."""
    try:
        config = parse_flags(TrainConfig, OWN.program, argv, known.base)  # --help has been answered by now
        return config.model_copy(update={"save_dir": str(folder.path)})
    except UserError as error:
        raise UserError(f"--resume, over the config of {folder.path}: {error}") from None


APP = Program(
    package="lm_pipeline",
    flags=TrainConfig,
    plan=lambda config, folder, argv: plan_run(config, folder, argv=argv),
    run=lambda argv: train(_parse(TrainConfig, OWN.program, argv), argv),
)
"""The program for studies."""

if __name__ == "__main__":
    sys.exit(main())
