"""A program that trains: flags -> plan -> session, for one run or for each of several seeds."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import Field

from lm_core.cli import parse_flags
from lm_core.config import Execution, ScheduleConfig
from lm_core.run import session
from lm_core.run.folder import RunFolder, run_folder
from lm_core.run.plan import Plan
from lm_core.run.ranks import exit_code_of, one_folder
from lm_core.run.resume import Policy
from lm_core.run.seeds import for_each_seed
from lm_core.world import current


class RunFlags(Execution):
    """The flags of every such program."""

    seed: int = Field(0, ge=0)
    """Seed of the weights, the batches, the dropout and the samples. --seeds 1 2 3 --save_dir S runs several, each in
    a folder of its own; with --together as one model, which fills a GPU (torch)."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """auto: MLX on Apple silicon, torch elsewhere."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: CUDA (torch) or Metal (MLX) if there is one."""
    save_dir: str = ""
    """Run folder; a new one, named by the time, when not given."""
    resume: bool = False
    """Resume the run in save_dir, or the newest that has a checkpoint; flags given here override its config."""
    config: str = ""
    """TOML file with any of these; flags on the command line win."""


F = TypeVar("F", bound=RunFlags)


@dataclass(frozen=True, kw_only=True)
class App(Generic[F]):
    """The program, by what makes it another one."""

    name: str
    """Name in its error messages."""
    command: str
    """Command that starts it."""
    flags: type[F]
    policy: Policy
    """Which flags a resume may change."""
    root: Path
    """Folder of the run folders that get no name."""
    plan: Callable[[F, RunFolder, Sequence[str]], Plan]
    """Plan of a run in a folder, given what was typed too."""
    schedule: Callable[[F], ScheduleConfig]
    """Learning rate over the run."""
    next_steps_of_seeds: Callable[[Path], Sequence[str]] = lambda _folder: ()
    """Commands to run on a finished series of seeds, one per line."""

    def main(self) -> int:
        """Run the command line; returns the exit code."""
        next_steps = self.next_steps_of_seeds
        return exit_code_of(lambda: for_each_seed(sys.argv[1:], self.run, next_steps=next_steps), self.name)

    def run(self, argv: Sequence[str]) -> None:
        """One run, new or resumed.

        Raises:
            UserError: for a mistake in the flags or what they name; nothing has been written then.
            NonFiniteError: when training diverges.
        """
        flags = parse_flags(self.flags, self.command, argv)
        # The first rank names a new one by the time.
        key = f"folder of {' '.join(argv)}"
        folder = one_folder(lambda: run_folder(flags.save_dir, self.root, resume=flags.resume), current(), key)
        with session.opened(folder, self.flags, self.policy, resume=flags.resume) as known:
            if known:
                flags = parse_flags(self.flags, self.command, argv, known.base)
            plan = self.plan(flags, folder, argv)
            session.run(plan.resumed(known, self.schedule) if known else plan, folder)
