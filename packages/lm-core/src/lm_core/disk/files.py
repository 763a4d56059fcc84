"""Writing so that a crash, or a power cut, leaves the old content or the new one; and which names are the project's."""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lm_core.disk.untrusted import check_inside, scratch_file
from lm_core.terminal import OutputError, say, show

_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_without_flush: set[int] = set()
"""Devices that this has been said of."""
Buffer = bytes | memoryview
_OF_CHECKPOINT = re.compile(
    r"[0-9a-f]{40}\.(metadata|safetensors)(\.new)?|\.[0-9a-f]{40}\.(metadata|safetensors)\.[0-9a-f]{16}\.new"
)


def checkpoint_files(folder: Path, suffix: str = "") -> list[Path]:
    """List the files in a folder with names that the project gives to a checkpoint's files, sorted.

    Whatever is called otherwise is somebody else's, such as a person's own copy: not read, and never deleted.

    Args:
        folder: of the checkpoints; there is nothing in one that is missing.
        suffix: ".metadata" or ".safetensors" for those alone; "" for all, the unfinished `.new` included.

    Raises:
        OSError: when the folder cannot be read just now.
    """
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if _OF_CHECKPOINT.fullmatch(path.name) and path.name.endswith(suffix)]


def write_whole(path: Path, *parts: Buffer) -> None:
    """Write `parts`, one after the other, so that after a crash the file has its old content or its new one."""
    write_pieces(path, parts)


def write_pieces(path: Path, pieces: Iterable[Buffer]) -> None:
    """Write `pieces` as `write_whole` does; they may be made meanwhile, and when that fails the old content stays."""
    with scratch_file(path) as file:
        file.writelines(pieces)
        file.flush()
        flush_file(file.fileno())
    flush_folder(path.parent)


def make_folder(path: Path, within: Path | None = None) -> list[Path]:
    """Make a folder, and those above it that are missing, so that a power cut does not take them away again.

    Call it before writing to or deleting from a folder below a run or save folder.

    Args:
        path: the folder.
        within: a folder that `path` lies in; a link that leads out of it is refused before anything is made.

    Returns:
        Those that it made, the innermost first.

    Raises:
        OSError: when it cannot be made; ELOOP where it lies outside `within`.
    """
    if within is not None:
        check_inside(path, within)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush_folder(folder.parent)
    return missing


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk: before that, a new file in it may be lost.

    Network and shared folders may be unable to; this is reported once for each file system, and ignored.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush_file(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
        device = os.fstat(descriptor).st_dev
        if device not in _without_flush:
            _without_flush.add(device)
            say(
                f"note: the file system of {show(folder)} cannot flush a folder ({error.strerror}):"
                " continuing without, so a power cut may lose the last save"
            )
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def optional(name: str, say: Callable[[str], None] = say) -> Iterator[None]:
    """A context that writes what a run can do without: what a disk or the memory does not take is one line.

    Errors of standard output (unwritable, or without a reader) have nothing to do with that file, and are raised.
    """
    try:
        yield
    except (BrokenPipeError, OutputError):
        raise
    except (OSError, MemoryError) as error:
        reason = "there is not enough memory" if isinstance(error, MemoryError) else error.strerror or error
        say(f"{name} not written: {reason}; the run itself is saved")


def flush_file(descriptor: int) -> None:
    """Flush a file or a folder to disk."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:  # macOS, where fsync leaves it in the memory of the drive
        with contextlib.suppress(OSError):  # as on network drives
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)
