"""YAML in bounds: aliases that multiply, nesting without end and keys given twice are refused unbuilt."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lm_core.disk.untrusted import read_regular
from lm_core.errors import UserError

_LONGEST = 1 << 18
_MOST_NODES = 100_000


def read_yaml(path: str) -> Any:
    """Read a YAML file.

    Raises:
        UserError: when it cannot be read, is not YAML, or expands too far.
    """
    try:
        text = read_regular(Path(path), _LONGEST).decode("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {}, path)
        return loader.construct_document(node)
    except OSError as error:
        raise UserError(f"--sweep: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not valid YAML: it is not UTF-8 at byte {error.start:,}; save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    except (ValueError, OverflowError) as error:  # a date that is none, a number of too many digits
        raise UserError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply") from None


def _size(node: Any, known: dict[int, int], path: str) -> int:
    """How many values a node stands for, each alias with all that it repeats."""
    if id(node) in known:
        if not known[id(node)]:
            raise UserError(f"{path}: line {node.start_mark.line + 1}: an alias refers to a node that contains it")
        return known[id(node)]
    known[id(node)] = 0
    inside: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, path)
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    size = 1 + sum(_size(part, known, path) for part in inside)
    if size > _MOST_NODES:
        raise UserError(
            f"{path}: line {node.start_mark.line + 1}: its aliases expand to more than {_MOST_NODES:,} values"
        )
    known[id(node)] = size
    return size


def _check_keys(node: Any, path: str) -> None:
    """YAML takes the last of two equal keys, and the first is lost without a word."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                raise UserError(f"{path}: line {key.start_mark.line + 1}: the key {key.value!r} is given twice")
            seen.add(key.value)
