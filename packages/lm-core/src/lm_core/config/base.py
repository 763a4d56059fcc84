"""Configs: frozen pydantic models, unknown keys refused with a suggestion, TOML in and out.

A config holds only what a person chooses. What follows from the choices (`head_dim`, `kv_heads`) is a property,
so nothing is ever overwritten.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from lm_core.config.complaint import complaint
from lm_core.disk.untrusted import read_regular
from lm_core.errors import UserError
from lm_core.file_names import given_back, has_odd_bytes, held, toml_document, toml_text

_LONGEST_TOML = 1 << 20
_MOST_PARTS = 32
# Possessive, and begun only where a part begins: linear in the length of any text.
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MOST_PARTS}}}", re.ASCII)
_LARGEST = 2**63 - 1


def _checked_text(value: str) -> str:
    if has_odd_bytes(value):
        raise ValueError("this is text, and not UTF-8")
    return value


Text = Annotated[str, AfterValidator(_checked_text)]
"""Text, which is UTF-8; any other string may hold the name of a file, which need not be."""


class Config(BaseModel):
    """Base of every config: frozen, strict about keys, with field docstrings as help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """Python's integers have no end; arrays and files have 64 bits."""
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"it is beyond {_LARGEST:,}")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Validate `values`; a mistake becomes a `UserError` that names the key and `where` it stands."""
        try:
            # As JSON, where "3" is no 3 and 1 no true, but a list is a tuple and 1 a float, as in TOML.
            text = json.dumps(values, default=str, ensure_ascii=False)
            if not has_odd_bytes(text):
                return cls.model_validate_json(text, strict=True)
            config: Self = _given_back(cls.model_validate_json(held(text), strict=True))
            return config
        except ValidationError as error:
            raise UserError(complaint(cls, error, where)) from None
        except (ValueError, RecursionError):  # of json: digits without end, and tables in tables
            raise UserError(f"{where}: a value is too long, or nested too deeply") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file; errors name the file and the key."""
        return cls.parse(read_toml(path), str(path))

    def to_toml(self, *without: str) -> str:
        """The config as TOML, but for the keys `without`. Options that are `None` are left out, as TOML says it."""
        return toml_document(self.model_dump(mode="json", exclude=set(without), exclude_none=True))


def _given_back(value: Any) -> Any:
    """A config with the names of files in it as they were before they were held for the parser."""
    if isinstance(value, Config):
        return value.model_copy(update={name: _given_back(getattr(value, name)) for name in type(value).model_fields})
    if isinstance(value, tuple):
        return tuple(map(_given_back, value))
    return given_back(value) if isinstance(value, str) else value


def read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file, or a `UserError` that says why there is none.

    A byte-order mark, which editors on Windows write, is skipped.
    """
    try:
        text = toml_text(read_regular(Path(path), _LONGEST_TOML))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not valid TOML: it is not UTF-8 at byte {error.start:,}; save it as UTF-8"
        ) from None
    # tomllib takes time and memory that grow with the square of the parts of a key.
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise UserError(f"{path} is not valid TOML: line {line}: a key of more than {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except ValueError:  # of int: more digits than Python reads
        raise UserError(f"{path} is not valid TOML: it has a number with too many digits") from None
    except RecursionError:
        raise UserError(f"{path} is not valid TOML: it is nested too deeply") from None
