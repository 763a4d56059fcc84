"""The format of a file of text, by its name and its first bytes.

    name, first bytes --compression_of--> gzip, ... or none
    name, first bytes of what it unpacks to --format_of--> text, jsonl, ...

A format that is not read is refused by name, with what to do. Limits: CSV and TSV are known by name alone, and JSON
under a name that does not say so is not read as JSON without being asked to.
"""

import json
import re
from pathlib import PurePath
from typing import Literal

from lm_core.errors import UserError

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]
"""json: one list of records. jsonl: one record a line."""
TABLES: frozenset[Format] = frozenset(("parquet", "arrow"))
"""Formats that are not text, and are read at any place rather than from front to back."""
Compression = Literal["gzip", "zstd", "bzip2", "xz"]
HEAD = 1 << 16
"""Maximum number of first bytes to look at."""

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".jl": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
COMPRESSION_OF_SUFFIX: dict[str, Compression] = {
    ".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz",
}  # fmt: skip
_COMPRESSIONS: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"),
)  # fmt: skip
_TABLES: tuple[tuple[bytes, Format], ...] = ((b"PAR1", "parquet"), (b"ARROW1\0\0", "arrow"))
_ARROW_STREAM = b"\xff\xff\xff\xff"
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_UNICODE = (
    (b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip
_BINARY = (
    (b"PK\x03\x04", "a zip archive (or an office document)"), (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!\x1a\x07", "a rar archive"),
    (b"\x04\x22\x4d\x18", "compressed by lz4"), (b"\x1f\x9d", "compressed by compress"),
    (b"%PDF-", "a PDF document"), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document"),
    (b"SQLite format 3\0", "an SQLite database"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"), (b"FEA1", "a Feather file of version 1"),
    (b"Obj\x01", "an Avro file"), (b"\x89PNG\r\n", "a picture"), (b"\xff\xd8\xff", "a picture"), (b"GIF8", "a picture"),
    (b"\x7fELF", "a program"), (b"\x80\x02", "a pickle"), (b"\x80\x04", "a pickle"), (b"\x80\x05", "a pickle"),
)  # fmt: skip
_NO_TEXT = dict((*_BINARY, *((magic, f"a table ({kind})") for magic, kind in _TABLES)))
_NO_TEXT_STARTS = tuple(_NO_TEXT)


def compression_of(name: str, head: bytes) -> Compression | None:
    """Compression of a file, by its first bytes.

    Raises:
        UserError: when its name says a compression and the bytes do not.
    """
    found = next((kind for magic, kind in _COMPRESSIONS if head.startswith(magic)), None)
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):  # three letters alone may begin a text
        found = "bzip2"
    said = COMPRESSION_OF_SUFFIX.get(PurePath(name).suffix.lower())
    if said and said != found:
        raise UserError(
            f"{name} has the extension of {said} but is {found or 'not compressed'}: rename it, unless it is damaged"
        )
    return found


def without_compression(name: str) -> str:
    """A name without the suffix of a compression: `a.jsonl` for `a.jsonl.gz`."""
    path = PurePath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in COMPRESSION_OF_SUFFIX else name


def binary_kind(head: bytes) -> str | None:
    """Name the type of a file whose (unpacked) first bytes are not those of text; tables count as such.

    A NUL byte says binary, as it does to grep and git.
    """
    if head.startswith(_NO_TEXT_STARTS):
        return next(what for magic, what in _NO_TEXT.items() if head.startswith(magic))
    if head[257:262] == b"ustar":
        return "a tar archive"
    return "a binary file" if b"\0" in head and not _other_unicode(head) else None


def is_table(name: str, head: bytes) -> bool:
    """Whether name or first bytes are those of a table."""
    said = FORMAT_OF_SUFFIX.get(PurePath(name).suffix.lower())
    return said in TABLES or any(head.startswith(magic) for magic, _ in _TABLES)


def format_of(name: str, head: bytes, *, stream: bool = False) -> Format:
    """The format of a file, by name and (unpacked) first bytes, of which `HEAD` are enough.

    Args:
        name: its path; a suffix of a compression is looked through.
        head: its first bytes.
        stream: whether the name says nothing, as that of a pipe.

    Raises:
        UserError: for one that is not read, or whose name and bytes disagree, with what to do.
    """
    said = None if stream else FORMAT_OF_SUFFIX.get(PurePath(without_compression(name)).suffix.lower())
    table = next((kind for magic, kind in _TABLES if head.startswith(magic)), None)
    if table or said in TABLES:
        return _table(name, table or ("arrow" if head.startswith(_ARROW_STREAM) else None), said)
    if other := _other_unicode(head):
        raise UserError(f"{name} is {other}, not UTF-8: convert it (iconv -f {other} -t UTF-8)")
    if (what := binary_kind(head)) and what != "a binary file":  # a NUL alone may be a character of a text
        raise UserError(f"{name} is {what}, not text: unpack or convert it first")
    json_format = _json_format(head)
    if said == "json":
        return _named_json(name, head, json_format)
    if said or stream:
        return said or json_format or "text"
    if json_format:
        shape = "a line each" if json_format == "jsonl" else "in a list"
        raise UserError(
            f'{name} holds JSON records, {shape}: set format = "{json_format}" to read it so, or "text" to take it raw'
        )
    return "text"


def check_plain(what: str, name: str, head: bytes) -> None:
    """Check that a file may be plain text, where nothing else is read.

    Args:
        what: how the error calls the file.
        name: its path.
        head: its first bytes.

    Raises:
        UserError: for one that name or bytes say is something else, with what to do.
    """
    if compression := compression_of(name, head):
        raise UserError(f"{what} is compressed by {compression}: unpack it first")
    if (kind := binary_kind(head)) and kind != "a binary file":  # a NUL alone may be a character of a text
        raise UserError(f"{what} is {kind}: give a plain text")
    if other := _other_unicode(head):
        raise UserError(f"{what} is {other}, not UTF-8: convert it (iconv -f {other} -t UTF-8)")
    if format := FORMAT_OF_SUFFIX.get(PurePath(name).suffix.lower()):
        raise UserError(
            f"{what} is {format} by its name, and not plain text: write its documents into a text file"
            " (jq -r .text for JSON lines), or rename it to .txt to train on it as it is"
        )


def _other_unicode(head: bytes) -> str | None:
    return next((name for mark, name in _OTHER_UNICODE if head.startswith(mark)), None)


def _table(name: str, found: Format | None, said: Format | None) -> Format:
    if found is None or (said in TABLES and said != found):
        raise UserError(f"{name} has the extension of {said} but is not: rename it, unless it is damaged")
    return found


def _named_json(name: str, head: bytes, found: Format | None) -> Format:
    """Of a file that is called .json; an empty one is an empty text."""
    if found or not head.strip():
        return found or "text"
    start = head.removeprefix(_UTF8_MARK).lstrip()[:1]
    if start == b"[":
        return "json"
    what = "is one JSON object, not a list of records or one record per line" if start == b"{" else "is not JSON"
    raise UserError(f'{name} {what}: write one record per line (jq -c), or set format = "text" to take it as it is')


def _json_format(head: bytes) -> Format | None:
    """jsonl or json, where the first bytes show records in that shape."""
    start = head.removeprefix(_UTF8_MARK).lstrip()
    if re.match(rb'\[\s*\{\s*["}]', start):
        return "json"
    if not re.match(rb'\{\s*"', start):
        return None
    line, end, _ = start.partition(b"\n")
    if not end and len(head) >= HEAD:
        return "jsonl"  # a first line that is longer than what is looked at: a record, for pretty-printers break lines
    try:
        return "jsonl" if isinstance(json.loads(line.decode(errors="replace")), dict) else None
    except (ValueError, RecursionError):
        return None
