"""From a record to its document: a field, a field of a field, a list of texts, the messages of a conversation."""

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from lm_pipeline.text.documents import BadRecord, Rules, encoded

_NAMES = {"role": ("role", "from", "author"), "content": ("content", "value", "text")}
"""Keys of the two parts of a message: in OpenAI's format, and in ShareGPT's."""


def document_of(record: object, rules: Rules) -> tuple[bytes, int]:
    """The document of a record as UTF-8, and how many of its characters were replaced.

    Raises:
        BadRecord: when the field is not there, or does not hold a text.
    """
    if not isinstance(record, dict):
        raise BadRecord("not an object", f" is not a JSON object with a field {rules.field!r}")
    return written(_found(record, rules.field), rules)


def written(value: object, rules: Rules) -> tuple[bytes, int]:
    """Content of a field as UTF-8: a text as it is, a list joined by newlines, messages by `message_format`."""
    return encoded(_text(value, rules), rules.errors)


def _found(record: Mapping[str, Any], field: str) -> Any:
    if field in record:
        return record[field]
    first, _, rest = field.partition(".")
    if rest and isinstance(record.get(first), dict):
        return _found(record[first], rest)
    raise BadRecord("no such field", f": {no_such_field(field, record)}")


def _text(value: object, rules: Rules) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRecord("null", f": the field {rules.field!r} is not a text but null")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return "".join(_message(item, i, rules) for i, item in enumerate(value))
    inner = [f"{rules.field}.{name}" for name in value][:20] if isinstance(value, dict) else []
    hint = f"; set text_field to {' or '.join(inner)}" if inner else ""
    shown = json.dumps(value, default=str)[:40]
    raise BadRecord("not a text", f": the field {rules.field!r} is not a text but {shown}{hint}")


def _message(message: Mapping[str, Any], number: int, rules: Rules) -> str:
    parts = {}
    for part, names in _NAMES.items():
        name = next((name for name in names if name in message), None)
        content = message[name] if name else None
        if isinstance(content, list) and all(isinstance(item, dict) and "text" in item for item in content):
            content = "".join(str(item["text"]) for item in content)
        if not isinstance(content, str):
            what = "is not a text" if name else "is not there"
            raise BadRecord(
                "not a message", f": the {part} of message {number + 1} in the field {rules.field!r} {what}"
            )
        parts[part] = content
    return re.sub(r"\{(role|content)\}", lambda found: parts[found[1]], rules.message_format)


def no_such_field(field: str, known: Collection[str]) -> str:
    """The line about a document's field or column that is not there."""
    near = difflib.get_close_matches(field, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known)[:20]) or 'none'}"
    return f"no field {field!r}; set text_field: {hint}"
