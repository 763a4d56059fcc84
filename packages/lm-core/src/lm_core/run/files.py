"""Writing so that a crash, or a power cut, leaves the old content or the new one."""

import contextlib
import fcntl
import os
from pathlib import Path

Buffer = bytes | memoryview


def write_whole(path: Path, *parts: Buffer) -> None:
    """Write `parts`, one after the other, so that after a crash the file has its old content or its new one."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)  # a killed save's, or a link that somebody put there
    try:
        # "x" makes the file or fails: nothing that lies there is written through.
        with beside.open("xb") as file:
            file.writelines(parts)
            file.flush()
            flush_file(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)  # a full disk wants the room back
        raise
    flush_folder(path.parent)


def make_folder(path: Path) -> list[Path]:
    """Make a folder, and those above it that are missing, so that a power cut does not take them away again.

    Returns those that it made, the innermost first.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush_folder(folder.parent)
    return missing


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: a new file is not sure to be there before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush_file(descriptor)
    finally:
        os.close(descriptor)


def flush_file(descriptor: int) -> None:
    """Have what was written to a file, or the names in a folder, on the disk."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:  # macOS, where fsync leaves it in the memory of the drive
        with contextlib.suppress(OSError):  # as on network drives
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)
