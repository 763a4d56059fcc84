"""Command lines: the fields of a config are the flags, a TOML file gives their defaults, and a mistake is one line."""

import contextlib
import copy
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import ValidationError

from lm_core.config import Config, complaint, read_toml
from lm_core.errors import UserError

C = TypeVar("C", bound=Config)


def _config_path(argv: Sequence[str]) -> str | None:
    """What `--config FILE` or `--config=FILE` names; the last one counts, as for every flag."""
    path = None
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name == "--config":
            path = value if equals else following
    return path


def parse_flags(cls: type[C], program: str, argv: Sequence[str], values: Mapping[str, Any] | None = None) -> C:
    """The config that the flags give over `--config FILE.toml` over `values` over the defaults of `cls`.

    Raises:
        UserError: for an unknown flag or key, or a value of the wrong type or range.
        SystemExit: after --help.
    """
    base = dict(values or {})
    path = _config_path(argv)
    if path:
        base |= read_toml(path)
    default = cls.parse(base, path or "config")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            flags = tyro.cli(_plain(default), prog=program, args=list(argv), use_underscores=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_sentence(printed.getvalue())) from None
    try:
        return cls.model_validate(dataclasses.asdict(flags))
    except ValidationError as error:
        raise UserError("--" + complaint(cls, error, "").removeprefix(": ")) from None


def _plain(default: Config) -> type[Any]:
    """A dataclass with the fields of a config but not its checks: tyro reads the types, pydantic judges the values."""
    fields: list[Any] = []
    for name, info in type(default).model_fields.items():
        value = getattr(default, name)
        kind: Any = _plain(value) if isinstance(value, Config) else info.annotation
        default_of = kind if isinstance(value, Config) else partial(copy.copy, value)
        hint = Annotated[kind, tyro.conf.arg(help=info.description)]
        fields.append((name, hint, dataclasses.field(default_factory=default_of)))
    plain = dataclasses.make_dataclass(type(default).__name__, fields)
    plain.__doc__ = type(default).__doc__
    return plain


def _first_sentence(box: str) -> str:
    """What tyro says between the title and the next rule of its box, and the flag it suggests, as one line."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    content = list(itertools.dropwhile(_is_rule, lines))
    said = list(itertools.takewhile(lambda line: not _is_rule(line), content))
    flags = (line for line in content[len(said) :] if line.startswith("--") and not _is_rule(line))
    meant = next((flag.split()[0].rstrip(",") for flag in flags), None)
    return " ".join(said) + (f"; did you mean {meant}?" if meant else "; see --help")


def _is_rule(line: str) -> bool:
    return not line.strip("─-")
