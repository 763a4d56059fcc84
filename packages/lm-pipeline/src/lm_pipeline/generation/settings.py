"""Settings of generation: set by the flags, changed in a session, one at a time."""

import difflib
import json
import re
from typing import Any

from pydantic import Field, ValidationError, field_validator

from lm_core.config import SamplingConfig
from lm_core.errors import UserError

_SPELLED = {"max_new_tokens": "length"}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Settings(SamplingConfig):
    """Settings by which a prompt is continued."""

    seed: int = Field(0, ge=0)
    """Seed of the next text; each further one uses the next seed."""
    max_new_tokens: int = Field(100, gt=0)
    """Maximum number of tokens of a text."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; they are not part of it."""

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string has no effect: leave it out")
        return stop

    def sampling(self, vocab_size: int) -> SamplingConfig:
        """How the next of so many ids is chosen; more than all of them are not kept."""
        values = {name: getattr(self, name) for name in SamplingConfig.model_fields}
        return SamplingConfig(**{**values, "top_k": min(self.top_k, vocab_size)})


NAMES = tuple(_SPELLED.get(field, field) for field in Settings.model_fields)
"""The settings as a session spells them."""


def changed(settings: Settings, name: str, value: str) -> Settings:
    r"""The settings with one that has the value that `value` spells.

    `stop` takes one string, in which `\n`, `\t` and `\\` are a newline, a tab and a backslash; "" is no string.

    Raises:
        UserError: for a setting that there is not, or a value of the wrong type or range.
    """
    field = _field(name)
    new: Any = value
    if field == "stop":
        new = (_unescaped(value),) if value else ()
    try:
        return Settings.model_validate({**settings.model_dump(), field: new})
    except ValidationError:
        raise UserError(f"{name} takes {takes(name)}, not {value!r:.60}") from None


def shown(settings: Settings, name: str) -> str:
    """The value of a setting, for a person."""
    value = getattr(settings, _field(name))
    if not isinstance(value, tuple):
        return str(value)
    return " ".join(json.dumps(text, ensure_ascii=False) for text in value) or "none"


def takes(name: str) -> str:
    """Describe the valid values of a setting, such as "a number of at least 0"."""
    info = Settings.model_fields[_field(name)]
    if info.annotation not in (int, float):
        return r"a text, in which \n is a newline"
    kind = "a whole number" if info.annotation is int else "a number"
    limits = [f"{words} {getattr(b, key)}" for b in info.metadata for key, words in _LIMITS.items() if hasattr(b, key)]
    return f"{kind} {'of ' if limits[0].startswith('at') else ''}{' and '.join(limits)}"


def meaning(name: str) -> str:
    """Describe a setting in one line."""
    return str(Settings.model_fields[_field(name)].description)


def _field(name: str) -> str:
    fields = {
        **{field: field for field in Settings.model_fields},
        **dict(zip(NAMES, Settings.model_fields, strict=True)),
    }
    if name in fields:
        return fields[name]
    near = difflib.get_close_matches(name, fields, n=1)
    raise UserError(
        f"unknown setting {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMES)}")
    )


def _unescaped(text: str) -> str:
    return re.sub(r"\\([nt\\])", lambda found: _ESCAPES[found[1]], text)
