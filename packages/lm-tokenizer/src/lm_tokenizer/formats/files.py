"""Reading and writing files so that what goes wrong is one line that names the file."""

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lm_tokenizer.errors import TokenizerError

_LONGEST = 200
"""Bytes of a file's name that its scratch file's name has; a name may have 255."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors about the content of a file say which file."""
    try:
        yield
    except TokenizerError as error:
        raise error if str(path) in str(error) else TokenizerError(f"{path}: {error}") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        TokenizerError: when it is missing, a folder or a device, or cannot be read.
    """
    try:
        if path.is_char_device() or path.is_block_device():
            raise TokenizerError(f"{path}: this is a device, where a file is wanted")
        return path.read_bytes()
    except FileNotFoundError:
        raise TokenizerError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise TokenizerError(f"{path}: this is a folder, where a file is wanted") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte-order mark.

    Raises:
        TokenizerError: also when it is not UTF-8, naming the byte.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}: is this the right file?") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        TokenizerError: also when it is not JSON, naming line and column.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise TokenizerError(f"{path}: not JSON at {place}: {error.msg}; was the file cut short?") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        raise TokenizerError(f"{path}: not JSON that can be read: {error}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, it has its old content or its new one; its folder is made.

    Raises:
        TokenizerError: when it cannot be written; nothing is left behind then.
    """
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files so that, whatever happens, each has its old content or its new one; the folder is made.

    All of them are on the disk before the first gets its name, so a full disk leaves every old one as it was.

    Raises:
        TokenizerError: when one cannot be written; no file has changed then, and nothing is left behind.
    """
    path, written = folder, dict[Path, Path]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(_unlink_all, written.values())
            for name, data in files.items():
                path = folder / name
                written[path], file = open_scratch(path)
                stack.enter_context(file)  # open, and so locked, until it has its name
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            for path, scratch in written.items():
                scratch.replace(path)
        flush_folder(folder)
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be written: {error.strerror}") from None


def _unlink_all(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def open_scratch(path: Path, buffering: int = -1) -> tuple[Path, BinaryIO]:
    """Make a file beside `path` to write its new content to: `.NAME.<16 random hex digits>.new`.

    Nothing that lies in the folder is overwritten or removed, but what killed writers of `path` left behind: files with
    such a name that no living process has locked.

    Returns: its path, and the file, open to write and locked until it is closed.

    Raises:
        OSError: when it cannot be made.
    """
    _remove_abandoned(path)
    while True:
        scratch = path.with_name(f".{_short(path)}.{secrets.token_hex(8)}.new")
        file = scratch.open("xb", buffering=buffering)
        with suppress(OSError):  # a file system without locks; there nothing counts as abandoned either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return scratch, file
        file.close()  # another writer has taken it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    own = re.compile(rf"\.{re.escape(_short(path))}\.[0-9a-f]{{16}}\.new")
    with os.scandir(path.parent) as entries:
        found = [entry.name for entry in entries if own.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
    for name in found:
        with suppress(OSError), path.with_name(name).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.with_name(name).unlink()


def _short(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:_LONGEST])


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the file system can do that: network and shared folders cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
