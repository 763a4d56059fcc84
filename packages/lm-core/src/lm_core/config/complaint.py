"""Pydantic's validation errors as one line that names the key and suggests another."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_STRAY, _LISTED = 3, 20
"""Unknown keys that may be slips of the hand, and known ones that still fit a line."""


def complaint(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    """The first of pydantic's complaints as one line, with a did-you-mean for an unknown key."""
    first = error.errors()[0]
    foreign = [str(e["loc"][0]) for e in error.errors() if e["type"] == "extra_forbidden" and len(e["loc"]) == 1]
    if len(foreign) > _STRAY:
        return (
            f"{where}: unknown keys {', '.join(map(repr, foreign[:_STRAY]))} and {len(foreign) - _STRAY} more:"
            " it is the config of another program"
        )
    keys, models = _look_up(cls, first["loc"])
    path = ".".join(keys)
    match first["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key {path!r}; {_hint(keys[-1], models)}"
        case "union_tag_invalid":
            return f"{where}: {path}.name: {first['ctx']['tag']!r} is not one of {first['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{where}: {path}.name is missing: it is one of {', '.join(repr(tag_of(m)) for m in models)}"
        case "json_invalid":
            message = "it is nested too deeply" if "recursion" in first["msg"] else first["msg"]
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "this is a table of keys, not a value"
        case _:
            message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {path}: {message}" if path else f"{where}: {message}"


def members_of(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a field may hold: one, several told apart by their `name`, or none for a plain value."""
    choices = [annotation, *get_args(annotation)]
    return [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]


def tag_of(model: type[BaseModel]) -> Any:
    """The `name` by which a config is told from the others of its union."""
    field = model.model_fields.get("name")
    return field.default if field else None


def _look_up(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of a place as a person writes them, and the configs that the last table on the way may be.

    Pydantic puts the tag of a union's member among the keys. The member that it names comes first.
    """
    keys: list[str] = []
    models: list[type[BaseModel]] = [cls]
    at_union = False
    for part in loc:
        chosen = [model for model in models if tag_of(model) == part]
        if at_union and chosen:
            models = chosen + [model for model in models if model not in chosen]
            at_union = False
            continue
        keys.append(str(part))
        field = models[0].model_fields.get(str(part)) if models else None
        if field and (inside := members_of(field.annotation)):
            models, at_union = inside, len(inside) > 1
    return keys, models


def _hint(key: str, models: list[type[BaseModel]]) -> str:
    """Suggestion for an unknown key of the first of `models`; the others are its union's members."""
    known = list(models[0].model_fields)
    owner = next((tag_of(model) for model in models[1:] if key in model.model_fields), None)
    if owner:
        return f"it belongs to name = {owner!r}, and name is {tag_of(models[0])!r}"
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    if len(known) > _LISTED:
        return f"none of the {len(known)} known keys is similar; see --help"
    return f"known keys: {', '.join(sorted(known))}"
