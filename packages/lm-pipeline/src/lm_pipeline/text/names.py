"""From names to paths: folders with what is below them, globs, and patterns that choose among what is found.

A part of a name that exists is itself, whatever brackets or stars are in it; only one that does not is a pattern.
Links are followed, each folder once. Hidden files are left out where no pattern names them.
"""

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import NamedTuple

from lm_core.errors import UserError

_MAGIC = re.compile(r"[*?[]")


def has_magic(name: str) -> bool:
    """Whether a name may be a pattern."""
    return bool(_MAGIC.search(name))


class Entry(NamedTuple):
    """A name in a folder, and what it stands for."""

    name: str
    path: str
    is_folder: bool
    """Links are followed."""
    is_link: bool


def walk(folder: str, refused: Callable[[str, OSError], None]) -> Iterator[tuple[str, list[Entry]]]:
    """A folder and those below it, each once, with what lies in it by name. Linked folders come after all others.

    As with `os.walk`, a folder that the caller removes from the list is not entered. `refused` is told of one that
    cannot be read, or, with ELOOP, has been entered before.
    """
    entered = set[tuple[int, int]]()
    ahead, linked = [folder], deque[str]()
    while ahead or linked:
        path = ahead.pop() if ahead else linked.popleft()
        try:
            status = os.stat(path)  # noqa: PTH116  (names are strings here, which are quicker)
            if (status.st_dev, status.st_ino) in entered:
                raise OSError(errno.ELOOP, "the folder has been entered before")
            entered.add((status.st_dev, status.st_ino))
            entries = _entries(path)
        except OSError as error:
            refused(path, error)
            continue
        yield path, entries
        ahead += [entry.path for entry in reversed(entries) if entry.is_folder and not entry.is_link]
        linked += [entry.path for entry in entries if entry.is_folder and entry.is_link]


def below(folder: Path) -> list[Path]:
    """All files in a folder and below, by name; broken links too.

    Raises:
        UserError: for a folder that cannot be read.
    """
    return sorted(Path(one.path) for _, entries in _visible(folder) for one in entries if not one.is_folder)


def _visible(folder: Path) -> Iterator[tuple[str, list[Entry]]]:
    """As `walk`, without hidden files and folders."""
    for path, entries in walk(str(folder), _stop):
        entries[:] = [entry for entry in entries if not entry.name.startswith(".")]
        yield path, entries


def _stop(path: str, error: OSError) -> None:
    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
        raise UserError(f"cannot read input folder {Path(path)}: {error.strerror}")


def _entries(folder: str) -> list[Entry]:
    with os.scandir(folder) as found:
        return sorted(Entry(one.name, one.path, _is_folder(one), one.is_symlink()) for one in found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop
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
        for one in [Path(path) for path, _ in _visible(folder)] if rest else [folder]:
            yield from _expanded(one, rest)
    elif not has_magic(part) or os.path.lexists(folder / part):
        if os.path.lexists(folder / part):
            yield from _expanded(folder / part, rest)
    else:
        for child in _children(folder, part):
            yield from _expanded(child, rest)


def _children(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        names = [entry.name for entry in _entries(str(folder))]
    except OSError as error:
        _stop(str(folder), error)
        return
    for name in names:
        if fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith(".")):
            yield folder / name


def chosen(path: PurePath, include: Sequence[str], exclude: Sequence[str]) -> bool:
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
