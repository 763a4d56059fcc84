"""Named files out of a zip or tar.gz that nobody vouches for.

archive -> its table of contents, checked -> the wanted members, each written beside its name, flushed, renamed

A member is wanted by the last part of its path, wherever it lies in the archive; the name it is written under is the
caller's, so nothing lands outside the target folder. An archive that tries to (a path that climbs or is absolute) is
refused, as are a wanted member that is a link, a device, encrypted or there twice, and one that is larger than allowed,
be it by what the archive says or by what comes out.

Limits: regular files only, no folders; tar archives are read twice.
"""

import contextlib
import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from lm_core.disk.files import flush_file, flush_folder
from lm_core.disk.untrusted import scratch_file
from lm_core.errors import UserError

_CHUNK = 1 << 20
_GZIP_RATIO = 30
"""Text shrinks to a quarter or so; deflate's limit, that of a bomb, is one to 1032."""
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, struct.error,
    EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip

Member = TypeVar("Member", zipfile.ZipInfo, tarfile.TarInfo)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip or a gzip does."""
    return _magic(path) in ("zip", "gzip")


def extract(archive: Path, wanted: Mapping[str, Collection[str]], target: Path, limit: int) -> None:
    """Write the wanted members into `target`: all of them, each whole.

    Args:
        archive: a zip or tar.gz; which, its first bytes say.
        wanted: for each name to write, the names that the member may have, the preferred first.
        target: an existing folder.
        limit: how many bytes a member may have.

    Raises:
        UserError: when the archive is damaged, hostile, or lacks a wanted member; nothing of that member is left.
        OSError: when the target cannot be written.
    """
    readers = {"zip": _extract_zip, "gzip": _extract_tar}
    kind = _magic(archive)
    if kind is None:
        raise UserError(f"{archive} is neither a zip nor a tar.gz archive")
    try:
        readers[kind](archive, wanted, target, limit)
    except _DAMAGED as error:
        hint = "; one that is not a tar.gz is to be unpacked first" if isinstance(error, tarfile.ReadError) else ""
        raise UserError(f"{archive} is damaged ({' '.join(str(error).split()) or 'it is truncated'}){hint}") from None


def _magic(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return "zip" if start in (b"PK\x03\x04", b"PK\x05\x06") else "gzip" if start[:2] == b"\x1f\x8b" else None


def _extract_zip(archive: Path, wanted: Mapping[str, Collection[str]], target: Path, limit: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        entries = [entry for entry in opened.infolist() if not entry.is_dir()]
        chosen = _choose(archive, wanted, entries, lambda entry: entry.filename)
        for entry in chosen.values():
            if entry.flag_bits & 1:
                raise UserError(f"{archive}: {entry.filename} is encrypted; unpack it yourself")
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                raise UserError(f"{archive}: {entry.filename} is not a regular file")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others know no bound
                raise UserError(f"{archive}: {entry.filename} is compressed in a rare way; unpack it yourself")
            _check_size(archive, entry.filename, entry.file_size, limit)
        for name, entry in chosen.items():
            with opened.open(entry) as stream:
                _write(stream, target / name, entry.file_size, f"{archive}: {entry.filename}")


def _extract_tar(archive: Path, wanted: Mapping[str, Collection[str]], target: Path, limit: int) -> None:
    with _streamed(archive) as opened:
        chosen = _choose(archive, wanted, [m for m in opened if not m.isdir()], lambda member: member.name)
    for member in chosen.values():
        if not member.isreg() or member.issparse():
            raise UserError(f"{archive}: {member.name} is not a regular file")
        _check_size(archive, member.name, member.size, limit)
    names = {member.offset: name for name, member in chosen.items()}
    with _streamed(archive) as opened:
        for member in opened:
            name = names.get(member.offset)
            stream = opened.extractfile(member) if name else None
            if name and stream:
                _write(stream, target / name, member.size, f"{archive}: {member.name}")


@contextlib.contextmanager
def _streamed(archive: Path) -> Iterator[tarfile.TarFile]:
    """A tar.gz read front to back, to the checksum at its end; too much in it is an error."""
    with gzip.open(archive) as unpacked:
        bounded = _Bounded(unpacked, _CHUNK + _GZIP_RATIO * archive.stat().st_size, archive)
        with tarfile.open(fileobj=bounded, mode="r|") as opened:
            yield opened
        while bounded.read(_CHUNK):
            pass


class _Bounded(io.RawIOBase):
    """A stream that raises an error when it is too long."""

    def __init__(self, stream: gzip.GzipFile, limit: int, archive: Path) -> None:
        self.stream, self.left, self.archive = stream, limit, archive

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise UserError(f"{self.archive} unpacks to far more than its size: not read further")
        return data


def _choose(
    archive: Path, wanted: Mapping[str, Collection[str]], members: Sequence[Member], path_of: Callable[[Member], str]
) -> dict[str, Member]:
    by_name: dict[str, list[Member]] = {}
    for member in members:
        path = path_of(member).replace("\\", "/")
        if path.startswith("/") or path[1:2] == ":" or ".." in path.split("/"):
            raise UserError(f"{archive} is not safe: it has a member with the path {path!r}")
        by_name.setdefault(PurePosixPath(path).name, []).append(member)
    chosen: dict[str, Member] = {}
    for name, accepted in wanted.items():
        found = next((by_name[one] for one in accepted if one in by_name), None)
        if found is None:
            raise UserError(f"{archive} has no {' or '.join(accepted)}; it has {_listed(sorted(by_name))}")
        if len(found) > 1:
            raise UserError(f"{archive} has {len(found)} members named {PurePosixPath(path_of(found[0])).name}")
        chosen[name] = found[0]
    return chosen


def _listed(names: Sequence[str], most: int = 5) -> str:
    return (", ".join(names[:most]) or "nothing") + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_size(archive: Path, name: str, size: int, limit: int) -> None:
    if size > limit:
        raise UserError(f"{archive}: {name} unpacks to {size:,} bytes, more than the {limit:,} that it may have")


def _write(stream: IO[bytes], path: Path, size: int, what: str) -> None:
    """Write a stream of at most `size` bytes to a file that has all of it or is not there."""
    with scratch_file(path) as file:
        while chunk := stream.read(_CHUNK):
            file.write(chunk)
            if file.tell() > size:
                raise UserError(f"{what} unpacks to more than the {size:,} bytes that its header states")
        file.flush()
        flush_file(file.fileno())
    flush_folder(path.parent)
