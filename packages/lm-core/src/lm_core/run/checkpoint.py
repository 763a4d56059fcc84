"""Atomic checkpoints: whole, or not there.

    weights         -> <sha1>.safetensors   parameters alone, float32; the name is the SHA-1 of the file
    everything else -> <sha1>.metadata      optimizer state; step, configs and the rest as JSON

Each file is written beside as `.NAME.<hex>.new`, flushed to disk and renamed, then the folder is flushed. The metadata
goes last: a checkpoint exists once that file does. What was written is read back and checked before anything older is
removed. The metadata carries a digest of its own content, so a flipped byte anywhere is noticed. Nothing is ever
unpickled.

Only damage that was read makes a checkpoint count for nothing. An error that says nothing of the content (no descriptor
is left, no right to read, a disk that answers with EIO, a stale network handle, a machine with less memory than the
file is long) ends the command that meets it: resuming from an older checkpoint would remove the newer one at the next
save. Files of other names are not the project's, and are left alone.

The format has a version, in the metadata file's header and in the metadata, which are the header's `facts`; one without
it is of the first. Where both name a newer one it is refused by that name; where they differ, a byte was flipped.

The best checkpoint is that with the lowest `val_loss` in its metadata; it may be the newest, too.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from lm_core.disk.files import Buffer, checkpoint_files, make_folder, write_whole
from lm_core.disk.untrusted import may_pass, open_regular
from lm_core.errors import UnreadableError
from lm_core.machine import machine_memory
from lm_core.run.tensors import Arrays, bytes_of, contiguous, read_header, safetensors_parts

FORMAT = 2
"""Version of what a checkpoint's two files hold; it grows when an older program would misread a newer checkpoint."""
_TYPES: dict[str, type] = {
    "state": dict, "config": dict, "model": dict, "optimizer": dict, "tokenizer": dict, "origin": dict, "history": list,
    "choices": dict,
}  # fmt: skip
"""Types of the metadata that a resume reads: files may have come from somebody else, with hashes that fit."""
_SHOWN = 40
_MALFORMED = (
    SafetensorError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read and checked."""

    path: Path
    weights: dict[str, NDArray[Any]]
    optimizer_state: dict[str, NDArray[Any]]
    metadata: dict[str, Any]
    """Metadata, as JSON has it; `metadata["step"]` is always there."""

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return int(self.metadata["step"])


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


def _digest(metadata: str, arrays: Arrays) -> str:
    """SHA-1 over the JSON and over every contiguous array's name, type, shape and bytes."""
    digest = hashlib.sha1(metadata.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(bytes_of(array))
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep
        self._found_damaged: set[Path] = set()
        """Files that were read and found damaged."""

    def save(
        self, weights: Arrays, optimizer_state: Arrays, metadata: Mapping[str, Any], *, keep_best: bool = False
    ) -> Path:
        """Write a checkpoint, prove it by reading it back, drop older ones; returns its metadata file.

        The newest `keep` stay, and with `keep_best` the best one. Copies no array that is contiguous, and lets other
        threads run while it hashes and writes.

        Raises:
            OSError: when it cannot be written, the run's folder is gone, or the checkpoints' is a link out of it; what
                was there before still is.
            DamagedError: when what was read back is not what was written.
        """
        if not self.folder.parent.exists():  # a volume that was unplugged: nothing is to fill up what lies under it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder.parent))
        make_folder(self.folder, within=self.folder.parent)
        weights_file = safetensors_parts(contiguous(weights))
        sha1 = _sha1(weights_file)
        text = json.dumps({**metadata, "weights": sha1, "format": FORMAT}, sort_keys=True, allow_nan=False)
        state = contiguous(optimizer_state)
        header = {"facts": text, "facts_sha1": _sha1([text.encode()]), "digest": _digest(text, state)}
        metadata_file = safetensors_parts(state, {**header, "format": str(FORMAT)})
        path = self.folder / f"{sha1}.metadata"
        write_whole(path.with_suffix(".safetensors"), *weights_file)
        write_whole(path, *metadata_file)
        _prove(path.with_suffix(".safetensors"), sha1)
        _prove(path, _sha1(metadata_file))
        self._prune(path, keep_best)
        return path

    def files(self) -> list[Path]:
        """The metadata files, whole or not.

        Raises:
            UnreadableError: when the folder cannot be read just now.
        """
        try:
            return checkpoint_files(self.folder, ".metadata")
        except OSError as error:
            raise UnreadableError(f"{self.folder} cannot be read: {error.strerror or error}; try again") from None

    def read(self, path: Path) -> Checkpoint:
        """Load and check the checkpoint of a metadata file.

        Raises:
            DamagedError: when a file is missing, malformed or not what its hash says.
            UnreadableError: when it cannot be read just now, or is of a newer format.
        """
        with _judged(path):
            (metadata, digest), data = _metadata(path, whole=True)
            state = load(data)
            if _digest(metadata, state) != digest:
                raise DamagedError(f"{path.name} is not what was written: its digest differs")
            named = json.loads(metadata)
            for key, kind in _TYPES.items():
                if not isinstance(named.get(key), kind | None):
                    raise ValueError(f"its {key} is {str(named[key])[:_SHOWN]!r}")
        weights = path.with_suffix(".safetensors")
        with _judged(weights):
            data = _content(weights)
            sha1 = hashlib.sha1(data).hexdigest()
            if sha1 != named["weights"] or path.stem != sha1:
                raise DamagedError(f"{weights.name} is not what was written: its SHA-1 differs")
            return Checkpoint(path, load(data), state, named)

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The good checkpoint with the most steps; damaged ones are named through `warn` and skipped.

        Raises:
            UnreadableError: when one that may have more steps cannot be read just now, or is of a newer format.
        """
        return self._first_good(self._by_step(warn), warn)

    def best(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The good checkpoint with the lowest validation loss, the newest when none says one; else as `newest`."""
        return self._first_good(sorted(self._by_step(warn), key=lambda listed: listed.score), warn)

    def newest_metadata(self) -> dict[str, Any]:
        """The metadata of the checkpoint with the most steps, from its header alone, unproven; empty if there is none.

        For what only shows them, or asks again once the checkpoint has been read.
        """
        with contextlib.suppress(UnreadableError):
            for listed in self._survey()[0]:
                with contextlib.suppress(DamagedError), _judged(listed.path):
                    metadata: dict[str, Any] = json.loads(_metadata(listed.path, whole=False)[0][0])
                    return metadata
        return {}

    def _first_good(self, order: Iterable[_Listed], warn: Callable[[str], None]) -> Checkpoint | None:
        for listed in order:
            try:
                return self.read(listed.path)
            except DamagedError as error:
                self._found_damaged.add(listed.path)
                warn(f"checkpoint skipped: {error}")
        return None

    def _by_step(self, warn: Callable[[str], None]) -> list[_Listed]:
        """Checkpoints that can be listed, most steps first, whatever the clock said when it was written."""
        listed, others = self._survey()
        for error in others.values():
            if isinstance(error, UnreadableError):
                raise error
            warn(f"checkpoint skipped: {error}")
        return listed

    def _survey(self) -> tuple[list[_Listed], dict[Path, DamagedError | UnreadableError]]:
        """Claims of the metadata files' headers, most steps first, and what is wrong with those that claim nothing."""
        found, others = [], dict[Path, DamagedError | UnreadableError]()
        for path in self.files():
            try:
                with _judged(path):
                    metadata = json.loads(_metadata(path, whole=False)[0][0])
                    loss = metadata.get("val_loss")
                    if loss is not None and not math.isfinite(loss):
                        raise ValueError(f"its val_loss is {loss}")
                    found.append(_Listed(path, int(metadata["step"]), loss))
            except (DamagedError, UnreadableError) as error:
                others[path] = error
        return sorted(found, key=lambda listed: listed.step, reverse=True), others

    def _prune(self, saved: Path, keep_best: bool) -> None:
        """Remove all but `saved`, the `keep` - 1 before it and, if asked, the best, and what killed saves left behind.

        What claims to come after `saved` goes only where it was read and found damaged.
        """
        try:
            by_step, others = self._survey()
        except UnreadableError:
            return  # the disk does not read just now: all of it is for the next time
        places = [place for place, listed in enumerate(by_step) if listed.path == saved]
        if not places:
            return
        sound = by_step[places[0] :]
        kept = sound[: self.keep] + ([min(sound, key=lambda listed: listed.score)] if keep_best else [])
        kept += [listed for listed in by_step[: places[0]] if listed.path not in self._found_damaged]
        stems = {listed.path.stem for listed in kept}
        stems |= {path.stem for path, error in others.items() if isinstance(error, UnreadableError)}
        # The metadata first, so that none is ever without its weights. What cannot be removed is for the next time.
        for suffix in (".metadata", ".safetensors", ".new"):
            with contextlib.suppress(OSError):
                for path in checkpoint_files(self.folder, suffix):
                    if suffix == ".new" or path.stem not in stems:
                        with contextlib.suppress(OSError):
                            path.unlink()


@contextlib.contextmanager
def _judged(path: Path) -> Iterator[None]:
    """A context in which `path` is read: an error is damage, or a read error that proves none."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise DamagedError(f"{path.name} is missing") from None
        if may_pass(error):
            raise _unreadable(path, error.strerror or str(error)) from None
        raise DamagedError(f"{path.name}: {error.strerror or error}") from None
    except MemoryError:
        raise _unreadable(path, "there is not enough memory") from None
    except _MALFORMED as error:
        raise DamagedError(f"{path.name} is malformed ({error})") from None


def _unreadable(path: Path, why: str) -> UnreadableError:
    return UnreadableError(
        f"checkpoint {path} cannot be read: {why}. It may be intact: try again, or move it out of the"
        " folder to resume from the one before"
    )


def _prove(path: Path, sha1: str) -> None:
    """Read a file back.

    Raises:
        DamagedError: when it is not what was written.
    """
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha1").hexdigest() != sha1:
            raise DamagedError(f"{path.name} does not read back as it was written")


def _content(path: Path) -> bytes:
    """All of a safetensors file whose header fits its size, and that there is the memory for."""
    with open_regular(path) as file:
        read_header(file)
        _check_memory(path, file)
        file.seek(0)
        return file.read()


def _check_memory(path: Path, file: BinaryIO) -> None:
    """To be called once the header was seen to fit the file: a length that is made up is damage."""
    size, memory = os.fstat(file.fileno()).st_size, machine_memory()
    if memory is not None and size > memory:
        raise _unreadable(path, f"it has {size:,} bytes, more than the {memory:,} of memory that this process may use")


def _metadata(path: Path, *, whole: bool) -> tuple[tuple[str, str], bytes]:
    """The metadata as JSON and the digest in a metadata file's header; with `whole`, all of the file too."""
    with open_regular(path) as file:
        header = read_header(file)["__metadata__"]
        metadata, digest = header["facts"], header["digest"]
        _check_format(path, header, metadata)
        # A header alone must not lie either, nor be another's: its step decides which checkpoint is the newest.
        if int(header.get("format", 1)) > 1 and header["facts_sha1"] != _sha1([metadata.encode()]):
            raise DamagedError(f"{path.name} is not what was written")
        if (weights := json.loads(metadata)["weights"]) != path.stem:
            raise DamagedError(f"{path.name} is not what was written: it is the metadata of {str(weights)[:_SHOWN]}")
        if whole:
            _check_memory(path, file)
        file.seek(0)
        return (metadata, digest), file.read() if whole else b""


def _check_format(path: Path, header: Mapping[str, Any], metadata: str) -> None:
    stated, again = int(header.get("format", 1)), json.loads(metadata).get("format", 1)
    if stated != again:
        raise DamagedError(f"{path.name} is not what was written: it names two formats")
    if stated > FORMAT:
        raise UnreadableError(
            f"checkpoint {path} is of format {stated}, made by a newer version of this project; this version reads"
            f" formats up to {FORMAT}: update it"
        )
