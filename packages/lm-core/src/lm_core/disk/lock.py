"""One process at a time in a folder."""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lm_core.disk.files import make_folder
from lm_core.disk.untrusted import open_regular
from lm_core.errors import UserError

_NAME = "lock"
_LONGEST = 20
_CONTENT = re.compile(rb"[\d\n\0]{0,%d}" % _LONGEST)
"""The number of the process that had the lock last, or what a power cut has left of it."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems without locks; there a run has none."""


class Lock:
    """A context in which no other process holds the same folder, which is made where it is missing.

    The kernel keeps the lock (`flock`) and drops it with the process, however that ends, so a dead process holds
    nothing. The file stays and says whose the lock was last; a folder in which nothing else was written is taken away
    again, so a command that is refused leaves nothing. A file of that name that is somebody else's is not written to.

    Args:
        folder: the folder.
        made: folders that were made for this one already, itself and those above it, the innermost first.
    """

    def __init__(self, folder: Path, made: Sequence[Path] = ()) -> None:
        self.folder, self.path = folder, folder / _NAME
        self._descriptor = -1
        self._made = list(made)

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            UserError: when a living process has it, naming it, or the folder cannot be written to.
        """
        try:
            self._descriptor = self._locked()
        except BlockingIOError:
            raise UserError(
                f"{self.folder} is in use by process {self._holder()}: wait for it, stop it, or give another folder"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to save_dir {self.folder}: {error.strerror}") from None
        with contextlib.suppress(OSError):  # on a full disk only the message is poorer
            if os.fstat(self._descriptor).st_nlink == 1:
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # somebody may have taken it away
            if self._made and [*self.folder.iterdir()] == [self.path]:
                self.path.unlink()
                for folder in self._made:
                    folder.rmdir()
        os.close(self._descriptor)

    def _locked(self) -> int:
        """A descriptor that has the lock of the file that is there now, and not of one taken away meanwhile."""
        while True:
            self._made = make_folder(self.folder) or self._made
            try:
                descriptor = open_lock(self.path)
            except FileNotFoundError:
                continue  # the folder was taken away by the process before
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(descriptor)
                if status.st_ino == self.path.stat().st_ino:
                    if status.st_nlink == 1:
                        return descriptor
                    self.path.unlink()  # a hard link, as `cp -al` makes them: the other folder has its own lock
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return descriptor
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _holder(self) -> str:
        try:
            with open_regular(self.path) as file:
                return file.read(20).decode("ascii", "replace").strip()
        except OSError:
            return "?"


def open_lock(path: Path) -> int:
    """A descriptor of a lock file, which is made where it is missing.

    No link is followed, a pipe is not waited for, and a file that holds anything but a process's number is refused.

    Raises:
        OSError: when it cannot be opened, or is not a lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if regular and _CONTENT.fullmatch(os.pread(descriptor, _LONGEST + 1, 0)):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"{path.name} is not a lock file of this project: move it away", str(path))
