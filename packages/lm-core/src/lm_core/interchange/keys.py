"""What a `config.json` says: each key is checked as it is read, and what is not supported is refused by name and value.

A key that is not there has the default that `transformers` gives it. So has a size or number that is `null`; elsewhere
`null` is a value like others.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lm_core.errors import UserError

T = TypeVar("T")
_LONGEST = 60
"""Characters of a value that a message repeats."""


class Keys:
    """The keys of one file."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path, self.values = path, values

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self.values.get(key)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above 0. Without a default, the key must be there."""
        value = default if self.get(key) is None else self.get(key)
        if value is None:
            raise UserError(f"{self.path} has no key {key!r}")
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
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def choice(self, key: str, default: str | None, choices: Mapping[str, T]) -> T:
        """What the value means. Without a default, the key must be there."""
        value = self.values.get(key, default)
        if value is None and key not in self.values:
            raise UserError(f"{self.path} has no key {key!r}")
        if not isinstance(value, str) or value not in choices:
            raise self.refusal(key, ", ".join(choices))
        return choices[value]

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse every value but those of `allowed`, of which the first is the default."""
        value = self.values.get(key, allowed[0])
        if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
            raise self.refusal(key, " or ".join(_shown(one) for one in allowed))

    def refusal(self, key: str, supported: str) -> UserError:
        """The error that names a key, its value and what there may be in its place."""
        return UserError(f"{self.path}: {key} = {_shown(self.get(key))} is not supported, only {supported}")


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


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
