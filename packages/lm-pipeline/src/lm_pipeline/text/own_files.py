"""A folder of a person's own files (notes, code, chats) as documents, held in memory.

    folder --names.walk--> names of a kind that is read --> bytes --UTF-8, or charset-normalizer's guess--> documents
                 |                                            |
                 +------- skipped, by reason: names ----------+

The result depends on what the folder holds, and not on the order in which the file system lists it. A document is
known by its name relative to the folder; of equal ones the first by name stays.
"""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lm_core.errors import UserError
from lm_core.terminal import show
from lm_pipeline.text.encodings import decoded
from lm_pipeline.text.flaws import counted
from lm_pipeline.text.formats import HEAD, binary_kind
from lm_pipeline.text.ignored import NAME, Ignored
from lm_pipeline.text.names import Entry, chosen, walk

SUFFIXES = (".txt", ".md", ".py", ".js", ".ts", ".java", ".go", ".rs", ".c", ".cpp")
"""Files that are read without being asked for, in any case of the letters."""
LARGEST_BYTES = 1_000_000
"""A larger file is rarely a note or source code: it is data, a log, or was generated."""
MOST_CHARACTERS = 1 << 32
"""More, which is held in memory, is refused."""
OTHER_KIND = "another kind"
_MOST_KINDS = 10


@dataclass(frozen=True)
class Document:
    """A file of the folder."""

    name: str
    """Relative to the folder, with `/` between its parts."""
    text: str


@dataclass
class OwnFiles:
    """What a folder gave, and what it did not."""

    folder: Path
    documents: tuple[Document, ...] = ()
    """By name."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Names that are not read, by reason; that of a folder ends in `/`, and stands for all that is in it."""
    decoded: dict[str, list[str]] = field(default_factory=dict)
    """Names of documents that are not UTF-8, by the encoding that was guessed."""

    def lines(self) -> Iterator[str]:
        """The summary: a line for each reason and for each encoding, the most frequent first."""
        for reason, names in _by_count(self.skipped):
            what = "folder" if all(name.endswith("/") for name in names) else "file"
            said = _kinds(names) if reason == OTHER_KIND else reason
            yield f"skipped {counted(len(names), what)}: {said} (first: {show(names[0])})"
        for encoding, names in _by_count(self.decoded):
            yield f"decoded {counted(len(names), 'file')} as {encoding}, a guess (first: {show(names[0])})"


def read_folder(folder: str | Path, include: Sequence[str] = (), largest_bytes: int = LARGEST_BYTES) -> OwnFiles:
    """The documents of a folder: each file below it whose suffix is one of `SUFFIXES` or that fits `include`.

    Args:
        folder: where to read.
        include: patterns of more files, such as "*.tex" (a name) and "letters/**" (a path); see `names.chosen`.
        largest_bytes: files of more bytes are skipped.

    Raises:
        UserError: when the folder is missing, empty, or has no text, with what was skipped; or too much for the memory.
    """
    root = Path(folder).expanduser()
    reading = _Reading(root, include, largest_bytes)
    names = reading.names()
    if not names and not reading.result.skipped:
        raise UserError(f"folder {show(folder)} is empty: there is nothing to read in it")
    reading.read(names)
    if not reading.result.documents:
        raise UserError(f"folder {show(folder)} has no text that can be used: {'; '.join(reading.result.lines())}")
    return reading.result


def split_documents(
    documents: Sequence[Document], fraction: float
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """(train, validation): about `fraction` of the documents is held out, each decided by a hash of its own text.

    So a document stays on its side whatever is added or renamed. Of two or more, neither side is empty: where the
    hashes leave one so, the document that is nearest to the other side changes over. A single one is trained on.

    Raises:
        UserError: when `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction of documents for validation must be above 0 and below 1, and is {fraction}")
    draws = [_draw(document.text) for document in documents]
    ranked = sorted(range(len(draws)), key=lambda i: (draws[i], i))
    number = sum(draw < fraction for draw in draws)
    number = min(max(number, 1), len(draws) - 1) if len(draws) > 1 else 0
    held_out = set(ranked[:number])
    train = tuple(document for i, document in enumerate(documents) if i not in held_out)
    return train, tuple(documents[i] for i in sorted(held_out))


def _draw(text: str) -> float:
    """A number from 0 to 1, uniform over texts."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


class _Reading:
    """One pass over a folder: first the names, then what they hold."""

    def __init__(self, root: Path, include: Sequence[str], largest_bytes: int) -> None:
        self.root, self.include, self.largest_bytes = root, tuple(include), largest_bytes
        self.result = OwnFiles(root)
        self._prefix = f"{str(root).rstrip('/')}/"
        self._real = os.path.realpath(root)
        self._ignored = Ignored(root)

    def names(self) -> list[str]:
        """The files to be read, by name."""
        found: list[str] = []
        for path, entries in walk(str(self.root), self._refused):
            folder = f"{path[len(self._prefix) :]}/".lstrip("/")
            self._take_patterns(folder, entries)
            entries[:] = [entry for entry in entries if self._passes(folder, entry)]
            found += [folder + entry.name for entry in entries if not entry.is_folder]
        return sorted(found)

    def read(self, names: Sequence[str]) -> None:
        """Read the files, in this order."""
        texts: dict[str, str] = {}
        total = 0
        for name in names:
            try:
                text, encoding = _decoded(self._data(name))
            except _SkippedError as error:
                self._skip(str(error), name)
                continue
            if text in texts:
                self._skip("the same text as another file", name)
                continue
            texts[text] = name
            total += len(text)
            if encoding:
                self.result.decoded.setdefault(encoding, []).append(name)
            if total > MOST_CHARACTERS:
                raise UserError(
                    f"folder {show(self.root)} has more than {MOST_CHARACTERS:,} characters of text: give a part of it"
                )
        self.result.documents = tuple(Document(name, text) for text, name in texts.items())
        for skipped in self.result.skipped.values():
            skipped.sort()

    def _skip(self, reason: str, name: str) -> None:
        self.result.skipped.setdefault(reason, []).append(name)

    def _refused(self, path: str, error: OSError) -> None:
        """Count a folder that is not entered; the first one must be."""
        name = path[len(self._prefix) :]
        if not name:
            raise UserError(f"cannot read folder {show(self.root)}: {error.strerror}") from None
        repeated = error.errno == errno.ELOOP
        self._skip("link to a folder that is read already" if repeated else _unreadable(error), f"{name}/")

    def _take_patterns(self, folder: str, entries: Sequence[Entry]) -> None:
        own = next((one for one in entries if one.name == NAME and not one.is_folder and not one.is_link), None)
        try:
            self._ignored.enter(folder, Path(own.path) if own else None)
        except OSError as error:
            self._skip(_unreadable(error), folder + NAME)

    def _passes(self, folder: str, entry: Entry) -> bool:
        """Whether a file is to be read, or a folder entered; otherwise the reason is noted."""
        name = folder + entry.name + "/" * entry.is_folder
        reason = self._reason_against(folder, entry, name)
        if reason:
            self._skip(reason, name)
        return not reason

    def _reason_against(self, folder: str, entry: Entry, name: str) -> str | None:
        if entry.name.startswith("."):
            return "hidden, with all below" if entry.is_folder else "hidden"
        if entry.is_link and (reason := self._reason_against_link(entry.path)):
            return reason
        if not entry.is_folder and not self._is_kind(name):
            return OTHER_KIND
        if self._ignored.covers(folder, name):
            return "ignored by .gitignore" + ", with all below" * entry.is_folder
        return None

    def _reason_against_link(self, path: str) -> str | None:
        real = os.path.realpath(path)
        if not os.path.lexists(real) or Path(real).is_symlink():  # realpath leaves a link in a loop as it is
            return "broken link"
        return None if Path(real).is_relative_to(self._real) else "link that leads out of the folder"

    def _is_kind(self, name: str) -> bool:
        return name.lower().endswith(SUFFIXES) or (bool(self.include) and chosen(PurePosixPath(name), self.include, ()))

    def _data(self, name: str) -> bytes:
        try:
            data, before, after = _read(self._prefix + name, self.largest_bytes)
        except FileNotFoundError:
            raise _SkippedError("vanished while the folder was read") from None
        except OSError as error:
            raise _SkippedError("special file" if error.errno == errno.ENXIO else _unreadable(error)) from None
        if not stat.S_ISREG(before.st_mode):
            raise _SkippedError("special file")
        if before.st_size > self.largest_bytes:
            raise _SkippedError(f"larger than {self.largest_bytes:,} bytes")
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(data) != before.st_size:
            raise _SkippedError("changed while it was read")
        return data


def _read(path: str, most: int) -> tuple[bytes, os.stat_result, os.stat_result]:
    """What a regular file of at most `most` bytes holds, and its status before and after; of others their status alone.

    In as few calls as can be: of small files, those of Python's file objects take as long as the reading.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer opens at once
    try:
        data, before = b"", os.fstat(descriptor)
        if stat.S_ISREG(before.st_mode) and before.st_size <= most:
            data = os.read(descriptor, before.st_size + 1)  # one byte more shows that it has grown
            while len(data) < before.st_size and (more := os.read(descriptor, before.st_size - len(data))):
                data += more
        return data, before, os.fstat(descriptor)
    finally:
        os.close(descriptor)


class _SkippedError(Exception):
    """A file that gives no document; the message is the reason."""


def _decoded(data: bytes) -> tuple[str, str | None]:
    """The text of a file, and the encoding where it was guessed.

    Raises:
        _SkippedError: when there is none.
    """
    if binary_kind(data[:HEAD]):
        raise _SkippedError("binary")
    try:
        text, encoding = decoded(data)
    except UnicodeError as error:
        raise _SkippedError(str(error)) from None
    if not text or text.isspace():
        raise _SkippedError("empty")
    return text, encoding


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def _by_count(counts: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    return sorted(counts.items(), key=lambda entry: (-len(entry[1]), entry[0]))


def _kinds(names: Sequence[str]) -> str:
    """`another kind: 12 .png, 3 .json, 1 without suffix`."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in names)
    ranked = sorted(suffixes.items(), key=lambda entry: (-entry[1], entry[0]))
    said = ", ".join(f"{number:,} {show(suffix)}" for suffix, number in ranked[:_MOST_KINDS])
    return f"{OTHER_KIND}: {said}" + (f", and {len(ranked) - _MOST_KINDS:,} more" if len(ranked) > _MOST_KINDS else "")
