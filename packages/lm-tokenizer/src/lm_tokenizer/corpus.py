"""A corpus as units of bytes: read in stretches, cut where no pretoken and no special token is cut.

files, folders, texts --read--> stretches --Cutter--> parts --> units of some MB, each of whole texts or parts of one
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from lm_tokenizer.boundaries import last_cut
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.special import SpecialTokens
from lm_tokenizer.surrogates import utf8

UNIT = 1 << 22
"""Bytes of text that are read, and that one thread takes, at a time."""


@dataclass(frozen=True)
class Unit:
    """Texts to be split one by one.

    Attributes:
        data: their bytes, and special tokens between them.
        begins, ends: offsets of each text in `data`, int64.
        source: the file or document they are from. offset: of `data` in it.
    """

    data: bytes
    begins: np.ndarray
    ends: np.ndarray
    source: str
    offset: int

    def check(self) -> None:
        """Raise TokenizerError if a text is not UTF-8."""
        for begin, end in zip(self.begins, self.ends, strict=True):
            try:
                self.data[begin:end].decode()
            except UnicodeDecodeError as error:
                at = int(begin) + error.start
                raise TokenizerError(
                    f"{self.source}: byte {self.offset + at} (0x{self.data[at]:02x}) is not UTF-8: {error.reason}; "
                    "convert or repair the file"
                ) from None


class Cutter:
    """Takes a text in stretches and gives it in parts that may be encoded one by one.

    A part has at least `size` bytes, but for the last, and is longer where the text has no place to be cut.
    """

    def __init__(self, pattern: str, special_tokens: Iterable[str], size: int) -> None:
        self._pattern, self._size = pattern, size
        self._special = [token.encode() for token in special_tokens]
        self._longest = max(map(len, self._special), default=0)
        self._held = bytearray()
        self._look_at = size

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The parts that are complete with this stretch."""
        self._held += data
        while len(self._held) >= self._look_at:
            cut = self._cut()
            if cut is None:
                self._look_at = 2 * len(self._held)  # each byte is looked at a few times at most
                return
            yield bytes(self._held[:cut])
            del self._held[:cut]
            self._look_at = self._size

    def finish(self) -> bytes:
        """The rest of the text."""
        left, self._held = bytes(self._held), bytearray()
        return left

    def _cut(self) -> int | None:
        """The last place to cut at that no special token covers, even one that is not complete yet."""
        end = len(self._held) - self._longest
        while (cut := last_cut(memoryview(self._held), 0, end, self._pattern)) is not None:
            around = bytes(self._held[max(0, cut - self._longest + 1) : cut + self._longest - 1])
            middle = min(cut, self._longest - 1) if self._longest else 0
            if not any(_covers(around, token, middle) for token in self._special):
                return cut
            end = cut
        return None


def _covers(text: bytes, token: bytes, place: int) -> bool:
    """Whether a text holds a token that begins before a place and ends behind it."""
    at = text.find(token)
    while 0 <= at < place:
        if at + len(token) > place:
            return True
        at = text.find(token, at + 1)
    return False


def parts_of_file(path: Path, pattern: str, special_tokens: Iterable[str], size: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each part of a file (see Cutter).

    Raises:
        TokenizerError: when the file cannot be read, or is gone before its end.
    """
    cutter, offset = Cutter(pattern, special_tokens, size), 0
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(size):
                for part in cutter.feed(data):
                    yield offset, part
                    offset += len(part)
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror or error}") from None
    if left := cutter.finish():
        yield offset, left


def parts_of_texts(texts: Iterable[str], pattern: str, special_tokens: Iterable[str], size: int) -> Iterator[bytes]:
    """The texts joined, in parts (see Cutter). A surrogate pair may be spread over two texts."""
    cutter, held = Cutter(pattern, special_tokens, size), ""
    for text in texts:
        if held:
            text, held = held + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, held = text[:-1], text[-1]
        yield from cutter.feed(utf8(text))
    yield from cutter.feed(utf8(held))
    if left := cutter.finish():
        yield left


def files_in(path: Path) -> list[Path]:
    """The file or pipe at a path, or the files anywhere below a folder, in order; links are followed, each folder once.

    Hidden files are left out.

    Raises:
        TokenizerError: when there is nothing there, a device, or a folder that cannot be read.
    """
    if path.is_dir():
        found = sorted(_below(path, set()))
        if not found:
            raise TokenizerError(f"{path}: the folder holds no file")
        return found
    if not path.exists():
        raise TokenizerError(f"{path}: there is no such file or folder")
    if not path.is_file() and not path.is_fifo():
        raise TokenizerError(f"{path}: is a device or a socket, not a file of text")
    return [path]


def _below(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status, entries = folder.stat(), sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        raise TokenizerError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if (status.st_dev, status.st_ino) in entered:
        return
    entered.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry, entered)
        elif entry.is_file():
            yield entry


class Corpus:
    """The documents of a source: a path, or an iterable of texts (`str`) and files or folders (`Path`)."""

    def __init__(self, source: "str | os.PathLike[str] | Iterable[str | Path]", pattern: str,
                 special_tokens: Sequence[str]) -> None:  # fmt: skip
        self._pattern = pattern
        self._special = SpecialTokens(dict.fromkeys(special_tokens, 0))
        self._documents: Iterable[str | Path]
        if isinstance(source, str | os.PathLike):
            self._documents = files_in(Path(source))
            self.size: int | None = sum(file.stat().st_size for file in self._documents)
        else:
            self._documents = source
            self.size = None

    def units(self) -> Iterator[Unit]:
        """All texts, special tokens cut out; the first one is read at once.

        Raises:
            TokenizerError: for a corpus without text, a file that cannot be read, or a text with a lone surrogate.
        """
        units = (unit for unit in self._units() if (unit.ends > unit.begins).any())
        first = next(units, None)
        if first is None:
            raise TokenizerError("the corpus is empty: there is nothing to learn from")
        return chain([first], units)

    def _units(self) -> Iterator[Unit]:
        texts: list[bytes] = []
        size = first = 0
        for i, document in enumerate(self._documents):
            if isinstance(document, os.PathLike):
                for file in files_in(Path(document)):
                    for offset, part in parts_of_file(file, self._pattern, self._special.ids, UNIT):
                        yield self._unit([part], str(file), offset)
                continue
            if not isinstance(document, str):
                raise TokenizerError(f"document {i} is a {type(document).__name__}; pass texts (str) and files (Path)")
            if len(document) >= UNIT:
                for part in parts_of_texts([document], self._pattern, self._special.ids, UNIT):
                    yield self._unit([part], f"document {i}", 0)
                continue
            if not texts:
                first = i
            texts.append(utf8(document))
            size += len(texts[-1])
            if size >= UNIT:
                yield self._unit(texts, f"document {first}", 0)
                texts, size = [], 0
        if texts:
            yield self._unit(texts, f"document {first}", 0)

    def _unit(self, documents: list[bytes], source: str, offset: int) -> Unit:
        """A unit of documents: each a text, or the texts between its special tokens."""
        begins: list[int] = []
        ends: list[int] = []
        at = 0
        for document in documents:
            found = self._special.find(document, "all")
            begins += [at, *(at + end for _, end, _ in found)]
            ends += [*(at + start for start, _, _ in found), at + len(document)]
            at += len(document)
        data = documents[0] if len(documents) == 1 else b"".join(documents)
        return Unit(data, np.array(begins), np.array(ends), source, offset)
