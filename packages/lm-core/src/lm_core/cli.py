"""Command lines: the fields of a config are the flags, a TOML file gives their defaults, and a mistake is one line."""

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from pydantic import ValidationError

from lm_core.config import Config, complaint, read_toml
from lm_core.errors import UserError

C = TypeVar("C", bound=Config)


def peek(argv: Sequence[str], flag: str) -> str | None:
    """The value that `--flag VALUE` or `--flag=VALUE` gives, "" for a bare `--flag`, None without it."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") == f"__{flag}":
            following = argv[i + 1] if i + 1 < len(argv) else "--"
            return value if equals else ("" if following.startswith("--") else following)
    return None


def parse_flags(cls: type[C], program: str, argv: Sequence[str], values: Mapping[str, Any] | None = None) -> C:
    """The config that the flags give over `--config FILE.toml` over `values` over the defaults of `cls`.

    Raises:
        UserError: for an unknown flag or key, or a value of the wrong type or range.
        SystemExit: after --help.
    """
    base = dict(values or {})
    path = peek(argv, "config")
    if path:
        base |= read_toml(path)
    default = cls.parse(base, path or "config")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                cls,
                prog=program,
                args=list(argv),
                default=default,
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except ValidationError as error:
        raise UserError(complaint(cls, error, "flags").replace("flags: ", "--", 1)) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_sentence(printed.getvalue())) from None


def _first_sentence(box: str) -> str:
    """What tyro says between the title and the first rule of its boxed message, as one line."""
    lines = [line.strip("│ ╭╮╰╯\n") for line in box.splitlines()[1:]]
    said: list[str] = []
    for line in lines:
        if not line.strip("─ "):
            break
        said.append(line)
    return " ".join(said) + "; see --help"


def program_name() -> str:
    """The name under which the program was started, for messages."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name
