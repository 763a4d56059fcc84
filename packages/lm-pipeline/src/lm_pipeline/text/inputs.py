"""The files that a corpus is read from: names, folders and globs, in a defined order, each with its format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lm_core.errors import UserError
from lm_pipeline.text.flaws import counted
from lm_pipeline.text.formats import TABLES, Format, binary_kind, format_of, is_table
from lm_pipeline.text.hub import PREFIX, revision_of
from lm_pipeline.text.names import below, chosen, has_magic, matches
from lm_pipeline.text.unpacked import DAMAGED, STANDARD_INPUT, is_stream, unpacked

Chosen = Format | Literal["auto"]


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus as it was when it was found."""

    path: Path
    format: Format | None
    """None: of a stream, which is not looked at before it is read."""
    size: int
    """In bytes, packed; 0 of a stream."""
    mtime_ns: int
    stream: bool = False
    """Whether it can be read but once: a pipe, standard input."""
    hub: bool = False
    """Whether it is a data set of the Hugging Face hub, by its name."""
    revision: str = ""
    """Commit of that data set."""

    @property
    def identity(self) -> list[str | int | None]:
        """What says whether it is the same file."""
        if self.hub:
            return [str(self.path), self.revision]
        return [str(self.path.resolve()), self.format, self.size, self.mtime_ns]

    @classmethod
    def found(cls, path: Path, format: Chosen = "auto") -> "InputFile":
        """The file or stream at `path`, which exists.

        Raises:
            UserError: when it cannot be read, or is of a kind that is not.
        """
        known = None if format == "auto" else format
        try:
            if is_stream(path):
                check_from_front(path, known)
                return cls(path, known, 0, 0, stream=True)
            stat = path.stat()
            if known not in TABLES:
                known = known or _format(path)
            return cls(path, known, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            raise UserError(f"cannot read input {path}: {error.strerror or error}") from None

    def check_unchanged(self) -> None:
        """Raise a UserError when the file is no longer what it was."""
        if self.stream or self.hub:
            return
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            raise UserError(f"input {self.path} vanished while it was read: put it back and run again") from None
        except OSError as error:
            raise UserError(f"cannot read input {self.path}: {error.strerror}") from None
        if (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns):
            raise UserError(f"input {self.path} changed while it was read: run again when it no longer does")


def check_from_front(path: Path, format: Format | None) -> None:
    """Raise a UserError for a format that no stream can be read in."""
    if format in TABLES:
        raise UserError(f"input {path} is {format}, which needs random access: save it to a file first")


@dataclass(frozen=True)
class Choice:
    """Which of the files that are found are taken, and as what."""

    format: Chosen = "auto"
    include: tuple[str, ...] = ()
    """Patterns, one of which a file in a folder must fit; none: any file."""
    exclude: tuple[str, ...] = ()
    """Patterns that no file in a folder, and no folder below it, may fit."""
    but_not_in: Path | None = None
    """Folder whose files are not inputs."""


@dataclass
class Inputs:
    """Inputs that names stand for."""

    files: list[InputFile] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    """Files found in folders that are not read, by what they are."""

    def lines(self) -> Iterator[str]:
        """The summary of what was left out."""
        if self.left_out:
            said = (f"{counted(len(paths), what)} (first: {paths[0]})" for what, paths in self.left_out.items())
            yield f"skipped inputs: {'; '.join(said)}"


def find_inputs(names: Sequence[str], choice: Choice = Choice()) -> Inputs:
    """The files that `names` stand for, each once.

    A name is a file, `-` for standard input, a folder (all files in it and below, by name), a glob (by name; `**`
    goes down) or `hub:NAME[:CONFIG][:SPLIT]`, a data set of the Hugging Face hub. What folders and globs hold is taken
    by `choice`; hidden and binary files are left out.

    Raises:
        UserError: when a name stands for no file, or for one that is not read, with what to do.
    """
    inputs, known = Inputs(), set[Path]()
    for name in names:
        if name.startswith(PREFIX):
            if Path(name) not in known:
                inputs.files.append(InputFile(Path(name), None, 0, 0, hub=True, revision=revision_of(name)))
                known.add(Path(name))
            continue
        count = len(inputs.files)
        seen = False
        for path, sought in _expanded(name, choice):
            seen |= (real := path.resolve() if path != STANDARD_INPUT else path) in known
            if real not in known and (found := _taken(path, sought, choice, inputs)):
                known.add(real)
                inputs.files.append(found)
        if len(inputs.files) == count and not seen:
            left = "".join(f"; {line}" for line in inputs.lines())
            raise UserError(f"input {name} has no files in it that can be read{left}")
    return inputs


def no_text(files: Sequence[InputFile]) -> str:
    """The complaint about inputs that are all empty."""
    return f"the inputs hold no text: {', '.join(str(file.path) for file in files[:3])}"


def _taken(path: Path, sought: bool, choice: Choice, inputs: Inputs) -> InputFile | None:
    """The file, unless it is one that was come upon (`sought` is false) and is not text."""
    what = None if sought else _not_text(path, choice.format)
    if what:
        inputs.left_out.setdefault(what, []).append(path)
        return None
    try:
        return InputFile.found(path, choice.format)
    except UserError as error:
        raise error if sought else UserError(f"{error}; or leave it out: exclude = [{path.name!r}]") from None


def _expanded(name: str, choice: Choice) -> Iterator[tuple[Path, bool]]:
    """Paths, and whether each was named itself."""
    path = Path(name).expanduser()
    try:
        if path == STANDARD_INPUT or (path.exists() and not path.is_dir()):
            yield path, True
            return
    except OSError as error:
        raise UserError(f"cannot read input {name}: {error.strerror}") from None
    roots = [path] if path.is_dir() else matches(path)
    if not roots:
        what = "no file matches" if has_magic(name) else "there is no file or folder"
        raise UserError(f"input {name}: {what}")
    excluded = choice.but_not_in.resolve() if choice.but_not_in else None
    for root in roots:
        for file in below(root) if root.is_dir() else (root,):
            relative = file.relative_to(root) if file != root else Path(file.name)
            if chosen(relative, choice.include, choice.exclude) and (
                excluded is None or excluded not in file.resolve().parents
            ):
                yield file, False


def _not_text(path: Path, format: Chosen) -> str | None:
    """Name the type of a file that is not an input; None if it is one."""
    if not path.exists():
        return "broken link"
    try:
        if not path.is_file():
            return "special file"
        with unpacked(path) as (_, head):
            if format in ("auto", *TABLES) and is_table(str(path), head):
                return None
            return "binary file" if binary_kind(head) else None
    except (UserError, OSError, *DAMAGED):
        return None  # said when it is read


def _format(path: Path) -> Format:
    try:
        with unpacked(path) as (_, head):
            format = format_of(str(path), head)
    except UserError as error:
        raise UserError(f"input {str(error).removeprefix('input ')}") from None
    except DAMAGED as error:
        raise UserError(f"cannot unpack input {path}: {error}; it may be damaged") from None
    if format in TABLES and _is_packed(path):
        raise UserError(f"input {path} is {format}, compressed as a whole: unpack it first")
    return format


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(8)
    return not start.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"))
