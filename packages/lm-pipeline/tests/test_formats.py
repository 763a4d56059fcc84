"""A file is what its name and first bytes say, or is refused with what to do."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from lm_core.errors import UserError
from lm_pipeline.text.formats import HEAD, binary_kind, compression_of, format_of

LINES = b'{"text": "a"}\n{"text": "b"}\n'
LIST = b'[\n  {"text": "a"},\n {"text": "b"}]'
PRETTY = b'{\n  "data": [1, 2]\n}\n'


def archive(kind: str) -> bytes:
    held = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=held, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a.txt"))
    else:
        with zipfile.ZipFile(held, "w") as packed:
            packed.writestr("a.txt", "text")
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("a.txt", b"text", "text"),
        ("a.txt", b"", "text"),
        ("README", b"[1] a reference\n", "text"),
        ("a.py", b"{1: 2}\n", "text"),
        ("a.txt", b'{"quoted" by someone}\n', "text"),
        ("a.cfg", PRETTY, "text"),
        ("a.txt", b"a \0 b", "text"),
        ("a.txt", b"ORC, PART 1", "text"),
        ("A.JSONL", b"", "jsonl"),
        ("a.ndjson.gz", LINES, "jsonl"),
        ("a.json", LINES, "jsonl"),
        ("a.json", b"\xef\xbb\xbf" + LINES, "jsonl"),
        ("a.json", b'{"text": "' + b"long " * HEAD, "jsonl"),
        ("a.json", LIST, "json"),
        ("a.json", b'["a", "b"]', "json"),
        ("a.json.zst", LIST, "json"),
        ("a.json", b"", "text"),
        ("a.csv", b"text,id\n", "csv"),
        ("a.tsv", b"text\tid\n", "tsv"),
        ("a.parquet", b"PAR1", "parquet"),
        ("shard-00", b"PAR1", "parquet"),
        ("a.arrow", b"ARROW1\0\0", "arrow"),
        ("a.arrow", b"\xff\xff\xff\xff\x10", "arrow"),
    ],
)
def test_name_and_bytes_say_the_format(name: str, head: bytes, format: str) -> None:
    assert format_of(name, head) == format


@pytest.mark.parametrize(
    ("head", "format"), [(LINES, "jsonl"), (LIST, "json"), (b"text", "text"), (b"PAR1", "parquet")]
)
def test_of_a_stream_the_bytes_say_it(head: bytes, format: str) -> None:
    assert format_of("/dev/fd/63", head, stream=True) == format


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("a.txt", LINES, 'holds JSON records, a line each: set format = "jsonl"'),
        ("shard", LIST, 'holds JSON records, in a list: set format = "json"'),
        ("a.json", PRETTY, r"is one JSON object, not a list of records or one record per line: .*jq -c"),
        ("a.json", b"prose", "is not JSON"),
        ("a.parquet", b"text", "has the extension of parquet but is not"),
        ("a.arrow", b"PAR1", "has the extension of arrow but is not"),
        ("a.txt", "text".encode("utf-16"), "is UTF-16, not UTF-8: convert it .iconv -f UTF-16"),
        ("a.csv", "text".encode("utf-32"), "is UTF-32"),
        ("a.docx", archive("zip"), "is a zip archive"),
        ("a", archive("tar"), "is a tar archive, not text: unpack or convert it first"),
        ("a.npy", b"\x93NUMPY\x01\0", "is a numpy array"),
        ("a.txt", b"%PDF-1.7", "is a PDF"),
        ("a.csv", b"SQLite format 3\0", "is an SQLite database"),
    ],
)
def test_what_is_not_read_is_refused_with_what_to_do(name: str, head: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        format_of(name, head)


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (gzip.compress(b"text", mtime=0), "gzip"),
        (bz2.compress(b"text"), "bzip2"),
        (bz2.compress(b""), "bzip2"),
        (lzma.compress(b"text"), "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"text", None),
        (b"BZhang", None),
    ],
)
def test_the_first_bytes_say_the_compression(packed: bytes, kind: str | None) -> None:
    assert compression_of("a", packed) == kind
    if kind != "gzip":
        with pytest.raises(UserError, match="has the extension of gzip but is"):
            compression_of("a.txt.gz", packed)


def test_what_is_binary() -> None:
    for head in (b"\x89PNG\r\n", b"\x7fELF", b"PAR1", b"a\0b", archive("zip"), archive("tar")):
        assert binary_kind(head)
    for text in (b"", b"text", "é".encode(), "text".encode("utf-16")):
        assert not binary_kind(text)
