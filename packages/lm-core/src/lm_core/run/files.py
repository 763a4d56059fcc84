"""Writing a file so that a crash leaves its old content or its new one."""

import os
from pathlib import Path

Buffer = bytes | memoryview


def write_whole(path: Path, *parts: Buffer) -> None:
    """Write `parts`, one after the other, so that after a crash the file has its old content or its new one."""
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)  # a full disk wants the room back
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
