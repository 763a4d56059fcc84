"""Which names .gitignore files leave out, as git reads them: pathspec knows the patterns, and this module the folders.

    .gitignore of the repository --> ... --> of the folder --> of a folder below: the deepest with a pattern decides

As in git, each name is judged when its folder is entered: a pattern is compared with the name itself, never with a
folder above it, and what lies in a folder that is left out is not asked for. (`pathspec.GitIgnoreSpec` judges the paths
of files without having walked to them, so it differs where a folder is left out and taken in again.)

Limits: git's settings of one person (`core.excludesFile`, `.git/info/exclude`) are not read.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from pathspec import RegexPattern, lookup_pattern

from lm_core.disk.untrusted import read_regular

NAME = ".gitignore"
_MOST_BYTES = 1 << 20
_TRAILING_SPACES = re.compile(r"(?<!\\) +$")


class _Pattern(NamedTuple):
    """A line of a file."""

    fits: Callable[[str], object]
    """Whether a path is matched, without a slash at its end."""
    ignores: bool
    only_folders: bool


_Chain = tuple[tuple[int, tuple[_Pattern, ...]], ...]
"""How many characters of a path to drop, and the patterns of a file, the last first; the deepest file first."""


class Ignored:
    """The .gitignore files of a folder: those in it, and those above it in the repository that it is a part of.

    Paths are relative to the folder and end in `/` if they are folders; the folder itself is "".
    """

    def __init__(self, root: Path) -> None:
        real = Path(os.path.realpath(root))
        folders = [real, *real.parents]
        depth = next((depth for depth, one in enumerate(folders) if os.path.lexists(one / ".git")), 0)
        self._base = ""
        """The folder, relative to its repository."""
        chain: _Chain = ()
        named = False
        for folder, child in pairwise(reversed(folders[: depth + 1])):
            if not (file := folder / NAME).is_symlink():
                with suppress(OSError):
                    chain = ((len(self._base), _patterns(file)), *chain)
            self._base += f"{child.name}/"
            named |= _is_ignored(self._base, chain)
        self._above: _Chain = () if named else chain  # an ignored folder that is named all the same is read
        self._chains: dict[str, _Chain] = {}

    def enter(self, folder: str, file: Path | None) -> None:
        """Take in a folder, after the one that it lies in, and its .gitignore file if it has one.

        Raises:
            OSError: when the file cannot be read; then the folder is as one without.
        """
        parent = folder[: folder.rstrip("/").rfind("/") + 1]
        chain = self._chains[folder] = self._chains[parent] if folder else self._above
        if file:
            self._chains[folder] = ((len(self._base + folder), _patterns(file)), *chain)

    def covers(self, folder: str, path: str) -> bool:
        """Whether a path in a folder that was entered is ignored."""
        return _is_ignored(self._base + path, self._chains[folder])


def _is_ignored(path: str, chain: _Chain) -> bool:
    is_folder, path = path.endswith("/"), path.removesuffix("/")
    for dropped, patterns in chain:
        relative = path[dropped:]
        for pattern in patterns:
            if (is_folder or not pattern.only_folders) and pattern.fits(relative):
                return pattern.ignores
    return False


def _patterns(file: Path) -> tuple[_Pattern, ...]:
    text = read_regular(file, _MOST_BYTES).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    found = map(_pattern, text.replace("\r\n", "\n").split("\n"))
    return tuple(one for one in found if one)[::-1]


def _pattern(line: str) -> _Pattern | None:
    """The pattern of a line; None of one that is a comment, or wrong, which matches nothing in git."""
    line = _TRAILING_SPACES.sub("", line)
    body = line.removesuffix("/")
    if body.endswith("/"):
        return None
    try:
        pattern = lookup_pattern("gitignore")(body)
    except (ValueError, re.error):
        return None
    if not isinstance(pattern, RegexPattern) or pattern.include is None or pattern.regex is None:
        return None
    # The expressions match a folder above, too, and end with it; but for these, which stand for all that lies in one.
    all_below = pattern.regex.pattern == "." or pattern.regex.pattern.endswith("/")
    return _Pattern(pattern.regex.match if all_below else pattern.regex.fullmatch, pattern.include, line.endswith("/"))
