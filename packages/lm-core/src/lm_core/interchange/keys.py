"""Checked reading of a `config.json`: an unsupported key is refused by name and value.

A key that is not there has the default that `transformers` gives it. So has a size or number that is `null`; elsewhere
`null` is a value like others. Which keys were read is kept: one that was not, and that is not known to say nothing of
what the model computes, is refused too.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lm_core.errors import UserError

T = TypeVar("T")
_LONGEST = 60
"""Characters of a value that a message repeats."""


class Keys:
    """The keys of one file.

    Args:
        path: of the file, for messages.
        values: what it holds.
        aliases: other spellings: alias -> key.

    Raises:
        UserError: for a key that is there under both of its spellings, with different values.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], aliases: Mapping[str, str] | None = None):
        self.path, self.values = path, values
        self._read: set[str] = set()
        self._spelled = {key: alias for alias, key in (aliases or {}).items() if alias in values}
        for key, alias in self._spelled.items():
            if key in values and not _same(values[key], values[alias]):
                raise UserError(f"{path}: {key} = {_shown(values[key])} and {alias} = {_shown(values[alias])} differ")
            self._read.add(key)

    def spelled(self, key: str) -> str:
        """A key as this file spells it."""
        return self._spelled.get(key, key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the key is not there."""
        key = self.spelled(key)
        self._read.add(key)
        return self.values.get(key, default)

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return self.spelled(key) in self.values

    def refuse_others(self, ignored: Collection[str]) -> None:
        """Refuse a key with a value that was not read, but those of `ignored`."""
        for key, value in self.values.items():
            if key not in self._read and key not in ignored and value is not None:
                raise UserError(
                    f"{self.path}: {key} = {_shown(value)} is not known to this program: remove the key if it"
                    " does not affect what the model computes"
                )

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above 0. Without a default, the key must be there."""
        value = default if self.get(key) is None else self.get(key)
        if value is None:
            raise UserError(f"{self.path} has no key {self.spelled(key)!r}")
        if type(value) is not int or value <= 0:  # a bool is an int too
            raise self.refusal(key, "a whole number above 0")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = default if self.get(key) is None else self.get(key)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self.refusal(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def choice(self, key: str, default: str | None, choices: Mapping[str, T]) -> T:
        """Look the value up among the choices. Without a default, the key must be there."""
        value = self.get(key, default)
        if value is None and not self.has(key):
            raise UserError(f"{self.path} has no key {key!r}")
        if not isinstance(value, str) or value not in choices:
            raise self.refusal(key, ", ".join(choices))
        return choices[value]

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse every value but those of `allowed`, of which the first is the default."""
        value = self.get(key, allowed[0])
        if not any(_same(value, one) for one in allowed):
            raise self.refusal(key, " or ".join(_shown(one) for one in allowed))

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids: one, a list of them, or none."""
        value = self.get(key)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(type(one) is not int or one < 0 for one in ids):
            raise self.refusal(key, "a token id, a list of them, or null")
        return tuple(ids)

    def refusal(self, key: str, supported: str) -> UserError:
        """The error that names a key, its value and what there may be in its place."""
        value = _shown(self.get(key))
        return UserError(f"{self.path}: {self.spelled(key)} = {value} is not supported, only {supported}")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: when the file is missing, is not JSON, or holds another thing than an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def _same(value: Any, other: Any) -> bool:
    """Equal, and of the same type: 1 is not true."""
    return value is other or (type(value) is type(other) and bool(value == other))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
