"""Files that somebody else may have put there: no pipe is waited for, no link written through, memory has a bound.

A folder that the project fills (a run, a save folder) is the user's, and may have come from somebody else. Whatever is
read, written or deleted below it goes through `check_inside` first, so that a link in it reaches nothing beside it. A
link to the folder itself is the user's own choice, and followed.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def check_inside(path: Path, root: Path) -> None:
    """Check that no link on the way from `root` to `path` leads out of `root`; what is not there yet leads nowhere.

    Raises:
        OSError: ELOOP when one does; the message names it.
    """
    real = Path(os.path.realpath(root))
    if Path(os.path.realpath(path)).is_relative_to(real):
        return
    ways = [way for way in (*reversed(path.parents), path) if way.is_relative_to(root) and way != root]
    link = next((way for way in ways if not Path(os.path.realpath(way)).is_relative_to(real)), path)
    raise OSError(errno.ELOOP, f"{link.name} is a link that leads out of {root}", str(link))


def open_inside(path: Path, root: Path) -> BinaryIO:
    """Open a file of a folder to read, unless a link leads out of the folder.

    Raises:
        OSError: when it cannot be read, is no regular file, or lies elsewhere.
    """
    check_inside(path, root)
    return open_regular(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read.

    Raises:
        OSError: when it cannot be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer opens at once
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """All of a file of at most `most` bytes.

    Raises:
        OSError: when it cannot be read, is no regular file, or has more.
    """
    with open_regular(path) as file:
        return _bounded(file, most, path)


def read_file_or_pipe(path: Path, most: int) -> bytes:
    """All of a file, or of a pipe that somebody writes to, of at most `most` bytes.

    Raises:
        OSError: when it cannot be read, is a device or anything else, or has more.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        return read_regular(path, most)
    with path.open("rb") as file:
        return _bounded(file, most, path)


def append_regular(path: Path, data: bytes) -> None:
    """Add to the end of a file, which is made where it is missing. One that has another name as well is copied first.

    Raises:
        OSError: when it cannot be written, or is a link or no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags, 0o644), "ab+") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if facts.st_nlink == 1:
            file.write(data)
            return
        file.seek(0)
        data = file.read() + data
    # A hard link, as a backup by `cp -al` makes them: what the other name stands for stays as it is.
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with beside.open("xb") as copy:
        copy.write(data)
    beside.replace(path)


def _bounded(file: BinaryIO, most: int, path: Path) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data
