"""Texts as the libraries take them: a path, bytes, or pieces of about a megabyte that tokenize as the whole does."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

PIECE = 1_000_000
"""Characters; the libraries that take `str` and are slow, or use more memory, on a whole corpus get such pieces."""
_CUT = re.compile(r"[^\s\x1c-\x1f]\n(?=[^\s\x1c-\x1f])")
"""After a single line end between two visible characters GPT-2's split cuts in any case."""


class Text:
    """One UTF-8 file."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def data(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

    @cached_property
    def pieces(self) -> list[str]:
        """All of it, in order."""
        return list(pieces(self.data.decode()))

    @cached_property
    def lines(self) -> list[str]:
        """All of it, in order, each with its line end."""
        return [line for piece in self.pieces for line in re.findall(r"[^\n]*\n|[^\n]+", piece)]

    def parts(self, count: int) -> Iterator["Text"]:
        """Texts of `count` pieces each, for a library that could not hold the results of all at once."""
        for i in range(0, len(self.pieces), count):
            part = Text(self.path)
            part.pieces = self.pieces[i : i + count]
            yield part

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size


def pieces(text: str, length: int = PIECE) -> Iterator[str]:
    """`text` in pieces of `length` characters or more, each up to a place where GPT-2's split cuts."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + length - 1)
        end = cut.end() if cut else len(text)
        yield text[start:end]
        start = end


def stream(path: Path) -> Iterator[str]:
    """The pieces of a file, of which two are in memory at a time."""
    rest = ""
    with path.open(encoding="utf-8", newline="") as file:
        while more := file.read(PIECE):
            *whole, rest = pieces(rest + more)
            yield from whole
    if rest:
        yield rest


def prefix(data: bytes, size: int) -> bytes:
    """`data` up to the last line end within `size` bytes, or the last whole character where there is none."""
    if len(data) <= size:
        return data
    end = data.rfind(b"\n", 0, size) + 1
    return data[:end] if end else data[:size].decode("utf-8", "ignore").encode()
