"""From names to paths: folders with what is below them, globs, and patterns that choose among what is found.

A part of a name that exists is itself, whatever brackets or stars are in it; only one that does not is a pattern.
Links are followed, each folder once. Hidden files are left out where no pattern names them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lm_core.errors import UserError

_MAGIC = re.compile(r"[*?[]")


def has_magic(name: str) -> bool:
    """Whether a name may be a pattern."""
    return bool(_MAGIC.search(name))


def below(folder: Path) -> list[Path]:
    """All files in a folder and below, by name; broken links too.

    Raises:
        UserError: for a folder that cannot be read.
    """
    return sorted(path for one in _folders(folder, set()) for path in _children(one, "*") if not _is_folder(path))


def _folders(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path]:
    """A folder and those below it, each once; links after what they lie beside."""
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"cannot read input folder {folder}: {error.strerror}") from None
    if (status.st_dev, status.st_ino) in entered:
        return
    entered.add((status.st_dev, status.st_ino))
    yield folder
    for child in sorted(_children(folder, "*"), key=lambda path: path.is_symlink()):
        if _is_folder(child):
            yield from _folders(child, entered)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def matches(pattern: Path) -> list[Path]:
    """Expand a glob: `*`, `?` and `[...]` within a name, `**` for folders at any depth; by name.

    Raises:
        UserError: for a folder that cannot be read.
    """
    start = Path(pattern.anchor) if pattern.anchor else Path()
    return sorted(dict.fromkeys(_expanded(start, pattern.parts[bool(pattern.anchor) :])))


def _expanded(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for one in _folders(folder, set()) if rest else (folder,):
            yield from _expanded(one, rest)
    elif not has_magic(part) or os.path.lexists(folder / part):
        if os.path.lexists(folder / part):
            yield from _expanded(folder / part, rest)
    else:
        for child in _children(folder, part):
            yield from _expanded(child, rest)


def _children(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except NotADirectoryError:
        return
    except OSError as error:
        raise UserError(f"cannot read input folder {folder}: {error.strerror}") from None
    for name in names:
        if fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith(".")):
            yield folder / name


def chosen(path: Path, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether patterns let a path pass: any of `include`, if there are some, and none of `exclude`.

    A pattern without a slash is compared with the name of the file; an excluded one with every folder on the way, too.
    With a slash, it is compared with the path from its beginning, `**` being any folders.
    """
    parts = path.parts
    included = not include or any(_fits(parts[-1:] if "/" not in one else parts, one) for one in include)
    return included and not any(_shuts_out(parts, one) for one in exclude)


def _shuts_out(parts: Sequence[str], pattern: str) -> bool:
    if "/" not in pattern.rstrip("/"):
        return any(fnmatchcase(part, pattern.rstrip("/")) for part in parts)
    return any(_fits(parts[:end], pattern) for end in range(1, len(parts) + 1))


def _fits(parts: Sequence[str], pattern: str) -> bool:
    return _match(parts, [one for one in pattern.split("/") if one and one != "."])


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match(parts[start:], patterns[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])
