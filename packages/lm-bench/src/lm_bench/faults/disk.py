"""Contents that a disk may have after the power was cut: a model of file systems, weaker than any that is in use.

After Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), which lists what applications must not rely
on, and POSIX, which promises no more than this:

- Bytes that were written are on the disk once their file was flushed (fsync, fdatasync). Before that each write may be
  there, be missing, or be there in some of its 512-byte sectors; what is missing before a file's end reads as zeros.
- A name that was made, changed or removed is so on the disk once its folder was flushed. Before that any subset of such
  operations may be there, also later ones without earlier ones; those on one name keep their order. A rename is there
  as a whole or not at all.
- Flushing a file does not flush its name. A folder whose own name is lost takes everything in it along.

Not modelled: disks that lie about flushes, and bytes that rot (the row "damage").
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

SECTOR = 512
KEPT, LOST = 1, 0
Names = dict[str, "Inode | None"]
"""Full path -> file; None for a folder."""
Choice = tuple[int, ...]
"""For each write that is not flushed: KEPT, LOST, or a number that picks the sectors that are there."""


@dataclass(eq=False)
class Inode:
    """A file's content, whatever it is called."""

    number: int
    durable: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    """(offset, bytes) in order; (size, b"") cuts or extends."""
    size: int = 0
    """With everything that is pending."""

    def write(self, offset: int, data: bytes) -> None:
        """Not on the disk until flushed."""
        self.pending.append((offset, data))
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        """Not on the disk until flushed."""
        self.pending.append((size, b""))
        self.size = size

    def flush(self) -> None:
        """Everything is on the disk."""
        self.durable = self.content((KEPT,) * len(self.pending))
        self.pending = []

    def content(self, choice: Choice) -> bytes:
        """Content on the disk if so much of the pending writes is there."""
        data = bytearray(self.durable)
        for (offset, written), how in zip(self.pending, choice, strict=True):
            if how == LOST:
                continue
            end = offset + len(written)
            data.extend(bytes(max(0, end - len(data))))
            if not written:
                del data[offset:]
            elif how == KEPT:
                data[offset:end] = written
            else:
                _tear(data, offset, written, how)
        return bytes(data)


def _tear(data: bytearray, offset: int, written: bytes, seed: int) -> None:
    """Some sectors only: a random half, in one case of two none after the first that is missing."""
    edges = [offset, *range((offset // SECTOR + 1) * SECTOR, offset + len(written), SECTOR), offset + len(written)]
    there = np.random.default_rng(seed).random(len(edges) - 1) < 0.5
    if seed % 2:
        there = np.logical_and.accumulate(there)
    for start, end, kept in zip(edges, edges[1:], there, strict=False):
        if kept:
            data[start:end] = written[start - offset : end - offset]


@dataclass(frozen=True)
class NameOperation:
    """Names that change together in a folder; a name without a file is removed."""

    folder: str
    names: Mapping[str, tuple[bool, "Inode | None"]]
    """Full path -> (whether it is there afterwards, its file or None for a folder)."""


@dataclass(frozen=True)
class State:
    """One thing that the disk may hold: which pending name operations are there, and how much of each pending file."""

    operations: tuple[bool, ...]
    contents: tuple[tuple[int, Choice], ...]
    """By inode number."""


class Disk:
    """Names and files, as they are and as far as they are on the disk. Paths outside `root` are ignored."""

    def __init__(self, root: str):
        self.root = root
        self.now: Names = {root: None}
        self.durable: Names = {root: None}
        self.operations: list[NameOperation] = []
        self._inodes = 0

    def concerns(self, path: str) -> bool:
        """Whether a path lies under the root."""
        return path.startswith(self.root + "/")

    def create(self, path: str) -> Inode:
        """A new empty file."""
        self._inodes += 1
        inode = Inode(self._inodes)
        self._change({path: (True, inode)})
        return inode

    def make_folder(self, path: str) -> None:
        """A new folder."""
        self._change({path: (True, None)})

    def rename(self, old: str, new: str) -> None:
        """Within one folder."""
        assert _parent(old) == _parent(new), "a rename across folders is not modelled"
        self._change({old: (False, None), new: (True, self.now[old])})

    def remove(self, path: str) -> None:
        """A file or an empty folder."""
        self._change({path: (False, None)})

    def flush_folder(self, path: str) -> None:
        """Its names are on the disk."""
        for operation in self.operations:
            if operation.folder == path:
                _apply(self.durable, operation)
        self.operations = [operation for operation in self.operations if operation.folder != path]

    def frozen(self) -> "Disk":
        """A copy that later operations do not change."""
        return copy.deepcopy(self)

    def files(self) -> list[Inode]:
        """Every file that may have a name after a crash, by number."""
        named = [*self.durable.values(), *(f for op in self.operations for _, f in op.names.values())]
        return sorted({inode for inode in named if inode}, key=lambda inode: inode.number)

    def draw(self, draw: np.random.Generator) -> State:
        """One of the states; how likely it is that something is lost differs from draw to draw, so extremes occur."""
        kept_name, kept_data = draw.choice([0.0, 0.1, 0.5, 0.9, 1.0], size=2)
        operations = tuple(bool(x) for x in draw.random(len(self.operations)) < kept_name)
        contents = []
        for inode in self.files():
            if inode.pending:
                kept = draw.random(len(inode.pending)) < kept_data
                torn = draw.integers(2, 10, size=len(inode.pending)) * (draw.random(len(inode.pending)) < 0.5)
                contents.append((inode.number, tuple(KEPT if k else int(t) for k, t in zip(kept, torn, strict=True))))
        return State(operations, tuple(contents))

    def after(self, state: State) -> dict[str, bytes | None]:
        """Files after the crash: path -> content, None for a folder."""
        names = dict(self.durable)
        for operation, there in zip(self.operations, state.operations, strict=True):
            if there:
                _apply(names, operation)
        choices = dict(state.contents)
        return {
            path: None if inode is None else inode.content(choices.get(inode.number, (KEPT,) * len(inode.pending)))
            for path, inode in names.items()
            if _reachable(path, names, self.root)
        }

    def _change(self, names: Mapping[str, tuple[bool, Inode | None]]) -> None:
        operation = NameOperation(_parent(next(iter(names))), names)
        _apply(self.now, operation)
        self.operations.append(operation)


def _apply(names: Names, operation: NameOperation) -> None:
    for path, (there, inode) in operation.names.items():
        names.pop(path, None)
        if there:
            names[path] = inode


def _parent(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _reachable(path: str, names: Iterable[str], root: str) -> bool:
    return path == root or (_parent(path) in names and _reachable(_parent(path), names, root))
