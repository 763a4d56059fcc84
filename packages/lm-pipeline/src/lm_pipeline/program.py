"""Shared code of the command lines: a TOML file under flags, --print-config, and one line for a mistake."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from lm_core.cli import parse_flags
from lm_core.config import Config
from lm_core.errors import UserError, exit_code_of
from lm_core.terminal import put
from lm_tokenizer.errors import TokenizerError


class ProgramConfig(Config):
    """Flags of every command line."""

    config: str = ""
    """TOML file with any of these; flags on the command line win."""
    print_config: bool = False
    """Print the resolved config as TOML, and exit."""

    def resolved(self) -> str:
        """The config as TOML, without the two flags that are about one call."""
        return self.to_toml("config", "print_config")


C = TypeVar("C", bound=ProgramConfig)


def run_program(
    cls: type[C],
    name: str,
    action: Callable[[C], int | None],
    argv: Sequence[str] | None = None,
    parse: Callable[[type[C], str, Sequence[str]], C] = parse_flags,
) -> int:
    """Do `action` with the config of the command line, as `parse` reads it; returns the exit code."""

    def main() -> int | None:
        config = parse(cls, name, sys.argv[1:] if argv is None else argv)
        if config.print_config:
            put(config.resolved(), end="")
            return None
        try:
            return action(config)
        except TokenizerError as error:
            raise UserError(str(error)) from error

    return exit_code_of(main, name)


Commands = Mapping[str, tuple[str, Callable[[Sequence[str]], int | None]]]
"""First word -> what it does, and what runs with the words after it."""


def run_subcommand(program: str, commands: Commands, argv: Sequence[str]) -> int | None:
    """Run the command that the first word names; returns the exit code.

    Raises:
        UserError: when it names none.
    """
    name, *words = argv or ["--help"]
    if name in ("-h", "--help"):
        put(f"usage: {program} {'|'.join(commands)} [--help] [--config FILE] [OPTIONS]\n")
        put("\n".join(f"  {command:<10} {about}" for command, (about, _) in commands.items()))
        return 0
    if name not in commands:
        raise UserError(f"there is no command {name!r}: give one of {', '.join(commands)}")
    return commands[name][1](words)
