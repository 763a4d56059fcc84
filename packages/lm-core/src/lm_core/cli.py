"""Command lines: the fields of a config are the flags, a TOML file gives their defaults, and a mistake is one line."""

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

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
            flags = tyro.cli(_plain(cls, default), prog=program, args=list(argv), use_underscores=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_sentence(printed.getvalue())) from None
    try:
        return cls.model_validate(vars(flags))
    except ValidationError as error:
        raise UserError("--" + complaint(cls, error, "").removeprefix(": ")) from None


def _plain(cls: type[Config], default: Config) -> type[Any]:
    """A dataclass with the fields of a config but not its checks: tyro reads the types, pydantic judges the values."""
    fields: list[Any] = [
        (
            name,
            Annotated[info.annotation, tyro.conf.arg(help=info.description)],
            dataclasses.field(default=getattr(default, name)),
        )
        for name, info in cls.model_fields.items()
    ]
    plain = dataclasses.make_dataclass(cls.__name__, fields)
    plain.__doc__ = cls.__doc__
    return plain


def _first_sentence(box: str) -> str:
    """What tyro says between the title and the next rule of its boxed message, as one line."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    content = itertools.dropwhile(_is_rule, lines)
    return " ".join(itertools.takewhile(lambda line: not _is_rule(line), content)) + "; see --help"


def _is_rule(line: str) -> bool:
    return not line.strip("─-")
