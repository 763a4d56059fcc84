"""Explanations of command-line mistakes: a value of the wrong type, a misspelt flag, or a flag of another choice.

tyro's sentence, the words, the config they were read over --explain--> one line with what to write instead
"""

import difflib
import re
from collections.abc import Iterator, Sequence

from lm_core.config import Config, members_of, tag_of

_NO_VALUE = re.compile(r"Error parsing (--\S+): (.*)", re.DOTALL)
_UNKNOWN = "Unrecognized options: "
_TYPES = {"invalid literal for int()": "a whole number", "could not convert string to float": "a number"}


def explain(said: str, argv: Sequence[str], config: Config) -> str:
    """The line for a command line that tyro refuses.

    Args:
        said: tyro's first sentence.
        argv: the words.
        config: over which they were read; it says which of several configs each field has.
    """
    if found := _NO_VALUE.match(said):
        return f"{found[1]}: {_of_type(found[2])}"
    if said.startswith(_UNKNOWN):
        return f"{said}; {_what_was_meant(said.removeprefix(_UNKNOWN).split(', '), argv, config)}"
    return f"{said}; see --help"


def _of_type(reason: str) -> str:
    if "digits" in reason:
        return "a number with too many digits"
    kind = next((words for start, words in _TYPES.items() if reason.startswith(start)), None)
    return f"{reason.rpartition(': ')[2]} is not {kind}" if kind else reason


def _what_was_meant(unknown: list[str], argv: Sequence[str], config: Config) -> str:
    word = unknown[0]
    before = argv[argv.index(word) - 1] if word in argv[1:] else ""
    switches = {_flag(path) for path in _switches(config)}
    if not word.startswith("--"):
        flag = _normal(before)
        return f"{flag} takes no value: write {flag} or {_off(flag)}" if flag in switches else "see --help"
    flag = _normal(word)
    if owners := [owner for path, owner in _of_other_choices(config) if _flag(path) == flag]:
        field, _, _ = owners[0].partition(" ")
        return f"it belongs to {' and '.join(owners)}, and {field} is {_value(config, field)}"
    known = [_flag(path) for path in _paths(config)]
    same_end = [other for other in known if other.endswith(f".{flag[2:]}")]
    near = same_end[:1] or difflib.get_close_matches(flag, [*known, *map(_off, switches)], n=1)
    return f"did you mean {near[0]}?" if near else "see --help"


def _flag(path: str) -> str:
    return f"--{path}"


def _off(flag: str) -> str:
    """The flag that switches another off."""
    table, dot, name = flag[2:].rpartition(".")
    return f"--{table}{dot}no_{name}"


def _normal(word: str) -> str:
    return "--" + word.partition("=")[0].removeprefix("--").replace("-", "_")


def _paths(config: Config, at: str = "") -> Iterator[str]:
    """The dotted names of all values."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from _paths(value, f"{at}{name}.")
        else:
            yield at + name


def _switches(config: Config) -> Iterator[str]:
    return (path for path in _paths(config) if isinstance(_at(config, path), bool))


def _of_other_choices(config: Config, at: str = "") -> Iterator[tuple[str, str]]:
    """The dotted names that another choice of a table's `name` would have, each with the flag that chooses it."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Config):
            continue
        yield from _of_other_choices(value, f"{at}{name}.")
        for member in members_of(info.annotation):
            for key in member.model_fields.keys() - type(value).model_fields.keys():
                yield f"{at}{name}.{key}", f"--{at}{name}.name {tag_of(member)}"


def _at(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _value(config: Config, flag: str) -> object:
    return _at(config, flag.removeprefix("--"))
