"""The files that a corpus is read from: names, folders and globs, in a defined order."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lm_core.errors import UserError

Kind = Literal["text", "jsonl", "parquet"]
KIND_OF_SUFFIX: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Any other file is text."""
COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"}


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus as it was when it was found."""

    path: Path
    kind: Kind
    size: int
    """In bytes."""
    mtime_ns: int

    @classmethod
    def found(cls, path: Path) -> "InputFile":
        """The file at `path`, which exists."""
        suffix = path.suffix.lower()
        if suffix in COMPRESSED:
            raise UserError(f"input {path} is compressed: unpack it first")
        try:
            stat = path.stat()
        except OSError as error:
            raise UserError(f"cannot read input {path}: {error.strerror}") from None
        return cls(path, KIND_OF_SUFFIX.get(suffix, "text"), stat.st_size, stat.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raise a UserError when the file is no longer what it was."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            raise UserError(f"input {self.path} vanished while it was read: put it back and run again") from None
        except OSError as error:
            raise UserError(f"cannot read input {self.path}: {error.strerror}") from None
        if (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns):
            raise UserError(f"input {self.path} changed while it was read: run again when it no longer does")


def find_inputs(names: Sequence[str], but_not_in: Path | None = None) -> list[InputFile]:
    """The files that `names` stand for, each once.

    A name is a file, a folder (all files in it and below, by name) or a glob (by name; `**` goes down). In folders,
    hidden files are left out, and what lies in the folder `but_not_in`.

    Raises:
        UserError: when a name stands for no file.
    """
    found: dict[Path, Path] = {}
    for name in names:
        before = len(found)
        for path in _expanded(name, but_not_in):
            before -= path.resolve() in found
            found.setdefault(path.resolve(), path)
        if len(found) == before:
            raise UserError(f"input {name} has no files in it")
    return [InputFile.found(path) for path in found.values()]


def _expanded(name: str, but_not_in: Path | None) -> Iterable[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _below(path, but_not_in)
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    if not matches:
        what = "no file matches" if glob.has_magic(name) else "there is no file or folder"
        raise UserError(f"input {name}: {what}")
    return (found for match in matches if (found := Path(match)).is_file())


def _below(folder: Path, but_not_in: Path | None) -> Iterator[Path]:
    excluded = but_not_in.resolve() if but_not_in else None
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and (excluded is None or excluded not in path.resolve().parents):
            yield path
