"""The bytes of an input, unpacked, from front to back: a file, a named pipe, or standard input.

path --open--> bytes as they are --first bytes--> gzip, zstd, bzip2, xz or none --> a stream of what was packed
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from lm_core.disk.untrusted import open_regular
from lm_core.errors import UserError
from lm_pipeline.text.formats import HEAD, Compression, compression_of

STANDARD_INPUT = Path("-")
_STDIN = 0
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
"""Errors of unpacking besides OSError."""
_SKIPPED_AT_ONCE = 1 << 20


def is_stream(path: Path) -> bool:
    """Whether an input can be read but once, from front to back.

    Raises:
        UserError: when it is neither that nor a file: a device, a socket, a terminal.
        OSError: when it is not there.
    """
    mode = (os.fstat(_STDIN) if path == STANDARD_INPUT else path.stat()).st_mode
    if stat.S_ISREG(mode):
        return path == STANDARD_INPUT
    if stat.S_ISFIFO(mode) or (path == STANDARD_INPUT and stat.S_ISSOCK(mode)):
        return True
    what = "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a socket" if stat.S_ISSOCK(mode) else "special"
    if path == STANDARD_INPUT:
        raise UserError("input -: standard input is a terminal or another device: pipe a text into it")
    raise UserError(f"input {path} is {what}, not a file of text: give a file, a pipe, or - for standard input")


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[BinaryIO, bytes]]:
    """A stream of what an input holds, at its beginning, and its first `HEAD` bytes.

    Raises:
        UserError: when its name says a compression and its bytes do not, or what unpacks it is not installed.
        OSError, DAMAGED: when it cannot be read.
    """
    with ExitStack() as stack:
        file, stream = stack.enter_context(_opened(path)), is_stream(path)
        head = file.read(HEAD)
        if stream:
            file = _again(head, file)
        else:
            file.seek(0)
        compression = compression_of("" if stream else str(path), head)
        if compression:
            inside = stack.enter_context(_opener(compression, path)(file))
            head = inside.read(HEAD)
            file = _again(head, inside)
        yield file, head


def skip(file: BinaryIO, size: int) -> None:
    """Read past some bytes."""
    if size and file.seekable():
        file.seek(size, os.SEEK_CUR)
        return
    while size and (data := file.read(min(size, _SKIPPED_AT_ONCE))):
        size -= len(data)


def _opened(path: Path) -> BinaryIO:
    if path == STANDARD_INPUT:
        return os.fdopen(os.dup(_STDIN), "rb")
    return path.open("rb") if is_stream(path) else open_regular(path)


def _opener(compression: Compression, path: Path) -> Callable[[BinaryIO], Any]:
    if compression != "zstd":
        openers: dict[str, Callable[[BinaryIO], Any]] = {"gzip": _gzip, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
        return openers[compression]
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            f"input {path} is compressed by zstd, which needs pyarrow: pip install pyarrow, or unpack it (unzstd)"
        ) from None
    return partial(pyarrow.CompressedInputStream, compression="zstd")


def _gzip(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file)


def _again(head: bytes, rest: Any) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Again(head, rest), 1 << 17))


class _Again(io.RawIOBase):
    """A stream whose first bytes have been read already, with them."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            self._head = self._rest.read(len(buffer))
        size = min(len(buffer), len(self._head))
        buffer[:size], self._head = self._head[:size], self._head[size:]
        return size
