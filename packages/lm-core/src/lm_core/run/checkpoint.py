"""Checkpoints that are either whole or not there.

    weights         -> <sha1>.safetensors   parameters alone, float32; the name is the SHA-1 of the file
    everything else -> <sha1>.metadata      optimizer state; step, configs and the rest as JSON

Each file is written beside as `.new`, flushed to disk and renamed, then the folder is flushed. The metadata goes last:
a checkpoint exists once that file does. What was written is read back and checked before anything older is removed. The
metadata carries a digest of its own content, so a flipped byte anywhere is noticed. Nothing is ever unpickled.

The best checkpoint is that with the lowest `val_loss` in its facts; it may be the newest, too.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from lm_core.run.files import Buffer, make_folder, write_whole
from lm_core.run.tensors import Arrays, bytes_of, contiguous, safetensors_parts

_MALFORMED = (
    SafetensorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip


_SUFFIXES = (".metadata", ".safetensors")


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    path: Path
    weights: dict[str, NDArray[Any]]
    optimizer_state: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    """The JSON part; `facts["step"]` is always there."""

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return int(self.facts["step"])


@dataclass(frozen=True)
class _Listed:
    """A metadata file, and what its header claims."""

    path: Path
    step: int
    val_loss: float | None

    @property
    def score(self) -> tuple[float, int]:
        """The better of two has the lower one. Without a loss: after all that have one, newest first."""
        return (self.val_loss, self.step) if self.val_loss is not None else (math.inf, -self.step)


def _sha1(parts: Iterable[Buffer]) -> str:
    digest = hashlib.sha1()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _digest(facts: str, arrays: Arrays) -> str:
    """SHA-1 over the JSON and over every contiguous array's name, type, shape and bytes."""
    digest = hashlib.sha1(facts.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(bytes_of(array))
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def save(
        self, weights: Arrays, optimizer_state: Arrays, facts: Mapping[str, Any], *, keep_best: bool = False
    ) -> Path:
        """Write a checkpoint, prove it by reading it back, drop older ones; returns its metadata file.

        The newest `keep` stay, and with `keep_best` the best one. Copies no array that is contiguous, and lets other
        threads run while it hashes and writes.

        Raises:
            OSError: when it cannot be written, or the run's folder is gone; what was there before still is.
            DamagedError: when what was read back is not what was written.
        """
        if not self.folder.parent.exists():  # a volume that was unplugged: nothing is to fill up what lies under it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder.parent))
        make_folder(self.folder)
        weights_file = safetensors_parts(contiguous(weights))
        sha1 = _sha1(weights_file)
        text = json.dumps({**facts, "weights": sha1}, sort_keys=True, allow_nan=False)
        state = contiguous(optimizer_state)
        metadata_file = safetensors_parts(state, {"facts": text, "digest": _digest(text, state)})
        path = self.folder / f"{sha1}.metadata"
        write_whole(path.with_suffix(".safetensors"), *weights_file)
        write_whole(path, *metadata_file)
        _prove(path.with_suffix(".safetensors"), sha1)
        _prove(path, _sha1(metadata_file))
        self._prune(path, keep_best)
        return path

    def read(self, path: Path) -> Checkpoint:
        """Load and check the checkpoint of a metadata file.

        Raises:
            DamagedError: when a file is missing, malformed or not what its hash says.
        """
        try:
            facts, digest = _header(path)
            state = load(_content(path))
            data = _content(path.with_suffix(".safetensors"))
            if _digest(facts, state) != digest:
                raise DamagedError(f"{path.name} is not what was written: its digest differs")
            named = json.loads(facts)
            sha1 = hashlib.sha1(data).hexdigest()
            if sha1 != named["weights"] or path.stem != sha1:
                raise DamagedError(f"{path.stem}.safetensors is not what was written: its SHA-1 differs")
            return Checkpoint(path, load(data), state, named)
        except OSError as error:
            raise DamagedError(f"{error.filename or path}: {error.strerror or error}") from None
        except _MALFORMED as error:
            raise DamagedError(f"{path.name} is malformed ({error})") from None

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The good checkpoint with the most steps; damaged ones are named through `warn` and skipped."""
        return self._first_good(self._by_step(warn), warn)

    def best(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The good checkpoint with the lowest validation loss, the newest when none says one; else as `newest`."""
        return self._first_good(sorted(self._by_step(warn), key=lambda listed: listed.score), warn)

    def _first_good(self, order: Iterable[_Listed], warn: Callable[[str], None]) -> Checkpoint | None:
        for listed in order:
            try:
                return self.read(listed.path)
            except DamagedError as error:
                warn(f"checkpoint skipped: {error}")
        return None

    def _by_step(self, warn: Callable[[str], None], unread: set[Path] | None = None) -> list[_Listed]:
        """The metadata files, most steps first, whatever the clock said when they were written.

        `unread` gets those that the system did not let be read, so that nobody knows what they are.
        """
        found = []
        for path in sorted(self.folder.glob("*.metadata")):
            try:
                facts = json.loads(_header(path)[0])
                loss = facts.get("val_loss")
                if loss is not None and not math.isfinite(loss):
                    raise ValueError(f"its val_loss is {loss}")
                found.append(_Listed(path, int(facts["step"]), loss))
            except (OSError, DamagedError, *_MALFORMED) as error:
                if unread is not None and isinstance(error, OSError | MemoryError):
                    unread.add(path)
                warn(f"checkpoint skipped: {path.name} is malformed ({error})")
        return sorted(found, key=lambda listed: listed.step, reverse=True)

    def _prune(self, saved: Path, keep_best: bool) -> None:
        """Remove all but `saved`, the `keep` - 1 before it and, if asked, the best, and what killed saves left behind.

        What claims to come after `saved` is damaged, or the run would have gone on from there.
        """
        unread: set[Path] = set()
        by_step = self._by_step(lambda _: None, unread)
        places = [place for place, listed in enumerate(by_step) if listed.path == saved]
        if not places:
            return  # the disk does not read just now: all of it is for the next time
        sound = by_step[places[0] :]
        kept = sound[: self.keep] + ([min(sound, key=lambda listed: listed.score)] if keep_best else [])
        stems = {listed.path.stem for listed in kept} | {path.stem for path in unread}
        # The metadata first, so that none is ever without its weights. What cannot be removed is for the next time.
        outdated = [path for suffix in _SUFFIXES for path in self.folder.glob(f"*{suffix}") if path.stem not in stems]
        for path in (*outdated, *self.folder.glob("*.new")):
            with contextlib.suppress(OSError):
                path.unlink()


def _prove(path: Path, sha1: str) -> None:
    """Read a file back.

    Raises:
        DamagedError: when it is not what was written.
    """
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha1").hexdigest() != sha1:
            raise DamagedError(f"{path.name} does not read back as it was written")


def _content(path: Path) -> bytes:
    """All of a safetensors file that is a file, whose header fits its size, and that there is the memory for."""
    _check_file(path)
    try:
        with safe_open(path, "numpy"):
            return path.read_bytes()
    except SafetensorError as error:
        raise DamagedError(f"{path.name} is malformed ({error})") from None


def _check_file(path: Path) -> None:
    if not path.is_file():  # a pipe would never end, a device not tell its size
        raise DamagedError(f"{path.name} is {'no file' if path.exists() else 'missing'}")
    size, memory = path.stat().st_size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DamagedError(f"{path.name} has {size:,} bytes, more than the memory of this machine")


def _header(path: Path) -> tuple[str, str]:
    """The JSON text and the digest in a metadata file's header, without reading its arrays."""
    _check_file(path)
    with safe_open(path, "numpy") as file:
        header = file.metadata() or {}
    return header["facts"], header["digest"]
