"""Command lines: the fields of a config are the flags, a TOML file gives their defaults, and a mistake is one line."""

import contextlib
import copy
import dataclasses
import io
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import ValidationError

from lm_core.config import Config, complaint, members_of, read_toml, tag_of
from lm_core.errors import UserError
from lm_core.mistakes import explain
from lm_core.terminal import is_terminal, put

C = TypeVar("C", bound=Config)
_PLAIN_FRAMES = str.maketrans(dict.fromkeys("╭╮╰╯", "+") | {"─": "-", "│": "|"})


def parse_flags(cls: type[C], program: str, argv: Sequence[str], values: Mapping[str, Any] | None = None) -> C:
    """The config that the flags give over `--config FILE.toml` over `values` over the defaults of `cls`.

    Tables are merged key by key. A field that holds one of several configs, told apart by their `name`, is switched by
    the flag `--field.name`, and takes the flags of that one.

    Raises:
        UserError: for an unknown flag or key, or a value of the wrong type or range.
        SystemExit: after --help.
    """
    base = dict(values or {})
    path = _last_value(argv, "config")
    if path:
        base = _merged(base, read_toml(path))
    base = _merged(base, _chosen_names(cls, argv))
    default = cls.parse(base, path or "config")
    page, complaints = _Page(), io.StringIO()
    try:
        with contextlib.redirect_stdout(page), contextlib.redirect_stderr(complaints):
            flags = tyro.cli(_plain(default), prog=program, args=list(argv), use_underscores=True)
    except SystemExit as stop:
        if not stop.code:
            put(_in_reach(page.getvalue()), end="", styled=True)
            raise
        raise UserError(explain(_first_sentence(complaints.getvalue()), argv, default)) from None
    try:
        return cls.model_validate(dataclasses.asdict(flags))
    except ValidationError as error:
        said = complaint(cls, error, "").removeprefix(": ")
        raise UserError(f"--{said}" if error.errors()[0]["loc"] else said) from None


def _last_value(argv: Sequence[str], flag: str) -> str | None:
    """Value of `--flag VALUE` or `--flag=VALUE`; the last one counts, as for every flag."""
    found = None
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") == f"__{flag}":
            found = value if equals else following
    return found


def _chosen_names(cls: type[Config], argv: Sequence[str]) -> dict[str, Any]:
    """The tables {field: {"name": ...}} of the flags that choose among several configs."""
    chosen: dict[str, Any] = {}
    for field, info in cls.model_fields.items():
        names = [tag_of(member) for member in members_of(info.annotation)]
        name = _last_value(argv, f"{field}.name") if len(names) > 1 else None
        if name is not None and name not in names:
            raise UserError(f"--{field}.name: {name!r} is not one of {', '.join(map(repr, names))}")
        if name is not None:
            chosen[field] = {"name": name}
    return chosen


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key, those of `over` winning."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both


def _plain(default: Config, names: Sequence[str] = ()) -> type[Any]:
    """A dataclass with the fields of a config but not its checks: tyro reads the types, pydantic judges the values.

    `names` are those of the union that the config is a member of.
    """
    fields: list[Any] = []
    for name, info in _own_first(type(default)).items():
        value = getattr(default, name)
        kind: Any = info.annotation
        default_of: Any = partial(copy.copy, value)
        if isinstance(value, Config):
            members = members_of(info.annotation)
            default_of = kind = _plain(value, [tag_of(m) for m in members] if len(members) > 1 else ())
        elif name == "name" and names:
            kind = Literal[tuple(names)]
        hint = Annotated[kind, tyro.conf.arg(help=" ".join((info.description or "").split()))]
        fields.append((name, hint, dataclasses.field(default_factory=default_of)))
    plain = dataclasses.make_dataclass(type(default).__name__, fields)
    plain.__doc__ = type(default).__doc__
    return plain


def _own_first(cls: type[Config]) -> dict[str, Any]:
    """The fields in the order of the help page: a config's own, then those that it shares with others."""
    shared = {name for base in cls.__mro__[1:] if issubclass(base, Config) for name in base.model_fields}
    return dict(sorted(cls.model_fields.items(), key=lambda field: field[0] in shared))


class _Page(io.StringIO):
    """Takes the help page; coloured on a terminal, unless the person has asked for no colour (no-color.org)."""

    def isatty(self) -> bool:
        return is_terminal(sys.__stdout__) and not os.environ.get("NO_COLOR")


def _in_reach(page: str) -> str:
    """A page whose frames are plain where the output's encoding has no lines to draw."""
    try:
        page.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return page.translate(_PLAIN_FRAMES)
    return page


def _first_sentence(box: str) -> str:
    """Text between the title and the next rule of tyro's box, as one line."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    content = list(itertools.dropwhile(_is_rule, lines))
    return " ".join(itertools.takewhile(lambda line: not _is_rule(line), content))


def _is_rule(line: str) -> bool:
    return not line.strip("─-")
