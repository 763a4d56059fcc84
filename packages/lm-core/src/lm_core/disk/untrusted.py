"""Files that somebody else may have put there: no pipe is waited for, no link written through, memory has a bound.

A folder that the project fills (a run, a save folder) is the user's, and may have come from somebody else. Whatever is
read, written or deleted below it goes through `check_inside` first, so that a link in it reaches nothing beside it. A
link to the folder itself is the user's own choice, and followed.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SCRATCH = re.compile(r"\..+\.[0-9a-f]{16}\.new", re.DOTALL)
_LONGEST = 200
"""Bytes of a file's name that its scratch file's name has; a name may have 255."""


_OF_WHAT_LIES_THERE = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EINVAL, errno.EFBIG,
    errno.ENAMETOOLONG,
)  # fmt: skip


def may_pass(error: OSError) -> bool:
    """Whether a read error may be transient, and so proves no damage: the next try may succeed.

    Such are ENFILE, EMFILE, EACCES, ENOMEM, EIO and ESTALE; not a missing file, nor something that is not a file.
    """
    return error.errno not in _OF_WHAT_LIES_THERE


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
        OSError: when it cannot be read, is not a regular file, or lies elsewhere.
    """
    check_inside(path, root)
    return open_regular(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read.

    Raises:
        OSError: when it cannot be read, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer opens at once
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """All of a file of at most `most` bytes.

    Raises:
        OSError: when it cannot be read, is not a regular file, or has more.
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
        OSError: when it cannot be written, or is a link or not a regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o644)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "ab+") as file:
        if status.st_nlink == 1:
            file.write(data)
            return
        file.seek(0)
        data = file.read() + data
    # A hard link, as a backup by `cp -al` makes them: what the other name stands for stays as it is.
    with scratch_file(path) as copy:
        copy.write(data)


@contextmanager
def scratch_file(path: Path) -> Iterator[BinaryIO]:
    """A context with a file to write the new content of `path` to, which takes its place at the end, or is not there.

    It lies beside, as `.NAME.<16 random hex digits>.new`. Nothing else in the folder is overwritten or removed, except
    what killed writers of `path` left: files of such a name that no living process has locked.

    Raises:
        OSError: when it cannot be made, or cannot take the place of `path`.
    """
    _remove_abandoned(path)
    scratch, file = _new_scratch(path)
    with file:  # open, and so locked, until it has its name
        try:
            yield file
            file.flush()
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)  # a full disk wants the room back
            raise


def is_scratch(name: str) -> bool:
    """Whether a file of this name is one that `scratch_file` made; of whom a living process writes to, too."""
    return bool(_SCRATCH.fullmatch(name))


def _new_scratch(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        scratch = path.with_name(f".{_short(path)}.{secrets.token_hex(8)}.new")
        file = scratch.open("xb")
        with suppress(OSError):  # a file system without locks; there nothing counts as abandoned either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return scratch, file
        file.close()  # another writer has taken it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    own = re.compile(rf"\.{re.escape(_short(path))}\.[0-9a-f]{{16}}\.new")
    with os.scandir(path.parent) as entries:
        found = [entry.name for entry in entries if own.fullmatch(entry.name)]
    for name in found:
        with suppress(OSError), open_regular(path.with_name(name)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.with_name(name).unlink()


def _short(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:_LONGEST])


def _bounded(file: BinaryIO, most: int, path: Path) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data
