"""Command lines: the fields of a config are the flags, a TOML file gives their defaults, and a mistake is one line."""

import contextlib
import copy
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import ValidationError

from lm_core.config import Config, complaint, members_of, read_toml, tag_of
from lm_core.errors import UserError

C = TypeVar("C", bound=Config)


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
        said = complaint(cls, error, "").removeprefix(": ")
        raise UserError(f"--{said}" if error.errors()[0]["loc"] else said) from None


def _last_value(argv: Sequence[str], flag: str) -> str | None:
    """What `--flag VALUE` or `--flag=VALUE` gives; the last one counts, as for every flag."""
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
    for name, info in type(default).model_fields.items():
        value = getattr(default, name)
        kind: Any = info.annotation
        default_of: Any = partial(copy.copy, value)
        if isinstance(value, Config):
            members = members_of(info.annotation)
            default_of = kind = _plain(value, [tag_of(m) for m in members] if len(members) > 1 else ())
        elif name == "name" and names:
            kind = Literal[tuple(names)]
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
