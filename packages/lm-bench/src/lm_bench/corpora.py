"""`lm-bench corpus`: one text file of a given size out of the texts at hand, for `lm-bench tokenizer`.

    files, folders --> distinct files --> plain text --> distinct paragraphs --> enough, shuffled, cut at a line end

The same files give the same corpus on every machine, whatever they are called and in whatever order they are found:
the order is that of the hashes of their contents, which is a shuffle. A file that is named itself is in the corpus; of
those in folders, as many as there is room for.
"""

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_core.disk.files import write_whole
from lm_core.errors import UserError

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
SHORTEST_PARAGRAPH = 80
"""In bytes. Below it a repetition ("import os", "Returns:") belongs to the language; from it on it is a copy."""

_UNREAD = re.compile(r"<!--.*?-->|<(script|style|head|svg)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_BREAK = re.compile(
    r"</?(p|div|br|li|tr|h[1-6]|pre|table|ul|ol|dl|dt|dd|section|article|blockquote)\b[^>]*>", re.IGNORECASE
)
_TAG = re.compile(r"<[a-zA-Z/!?][^>]*>")


@dataclass
class Account:
    """Counts of the sources that were used and skipped."""

    files: int = 0
    """Files that gave text."""
    copies: int = 0
    """Files equal to an earlier one."""
    not_utf8: int = 0
    paragraphs_dropped: int = 0
    """Paragraphs equal to an earlier one."""
    size: int = 0
    """Bytes of the corpus."""

    @property
    def line(self) -> str:
        """Everything, for people."""
        return (
            f"{self.size:,} bytes from {self.files:,} files (skipped: {self.copies:,} copies, {self.not_utf8:,} not"
            f" UTF-8, {self.paragraphs_dropped:,} repeated paragraphs)"
        )


def build(out: str | Path, size: int, sources: Sequence[str | Path], suffixes: Sequence[str]) -> Account:
    """Write at most `size` bytes of distinct text from `sources` (files or folders) to `out`.

    Raises:
        UserError: when a source does not exist, or no file in them has one of `suffixes` and text in it.
    """
    account = Account()
    pieces: list[tuple[bytes, bytes]] = []
    for digest, text in texts(distinct(found(sources, suffixes), account), account):
        pieces.append((digest, text))
        account.size += len(text)
        if account.size >= size:
            break
    corpus = cut(b"".join(text for _, text in sorted(pieces)), size)
    if not corpus:
        raise UserError(f"no text in {', '.join(map(str, sources))} with a suffix of {', '.join(suffixes)}")
    account.size = len(corpus)
    write_whole(Path(out), corpus)
    return account


def found(sources: Sequence[str | Path], suffixes: Sequence[str]) -> Iterator[tuple[bool, Path]]:
    """Every file in `sources`, then (True: of a folder) the files with one of `suffixes` below the folders in it.

    Raises:
        UserError: when a source does not exist.
    """
    folders = []
    for source in map(Path, sources):
        if source.is_dir():
            folders.append(source)
        elif source.exists():
            yield False, source
        else:
            raise UserError(f"no such file or folder: {source}")
    for folder in folders:
        for path in folder.rglob("*"):
            if path.name.lower().endswith(tuple(suffixes)) and path.is_file() and not path.is_symlink():
                yield True, path


def distinct(files: Iterable[tuple[bool, Path]], account: Account) -> list[tuple[bytes, Path]]:
    """The sha256 of each content and one path for it: the named files before those of folders, else in hash order."""
    by_hash: dict[bytes, tuple[bool, Path]] = {}
    for of_folder, path in files:
        digest = hashlib.sha256(path.read_bytes()).digest()
        account.copies += digest in by_hash
        by_hash.setdefault(digest, (of_folder, path))
    ordered = sorted((of_folder, digest, path) for digest, (of_folder, path) in by_hash.items())
    return [(digest, path) for _, digest, path in ordered]


def texts(files: Iterable[tuple[bytes, Path]], account: Account) -> Iterator[tuple[bytes, bytes]]:
    """Each file's hash and text, which ends in an empty line, without the paragraphs that an earlier file had."""
    seen: set[bytes] = set()
    for digest, path in files:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            account.not_utf8 += 1
            continue
        if path.suffix.lower() in HTML_SUFFIXES:
            text = strip_html(text)
        kept = [paragraph for paragraph in paragraphs(text) if _is_new(paragraph, seen, account)]
        if kept:
            account.files += 1
            yield digest, b"\n\n".join(kept) + b"\n\n"


def paragraphs(text: str) -> Iterator[bytes]:
    """The runs of lines between empty lines, as UTF-8; line ends become "\\n", white space at a line's end goes."""
    lines = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n"))
    for paragraph in re.split(r"\n{2,}", lines):
        if paragraph.strip():
            yield paragraph.strip("\n").encode()


def _is_new(paragraph: bytes, seen: set[bytes], account: Account) -> bool:
    if len(paragraph) < SHORTEST_PARAGRAPH:
        return True
    digest = hashlib.blake2b(paragraph, digest_size=16).digest()
    if digest in seen:
        account.paragraphs_dropped += 1
        return False
    seen.add(digest)
    return True


def strip_html(text: str) -> str:
    """The words of a page: no head, scripts or tags, entities resolved, a line end where a block begins or ends."""
    text = _TAG.sub("", _BREAK.sub("\n", _UNREAD.sub("", text)))
    return re.sub(r"\n\s*\n", "\n\n", html.unescape(text))


def cut(corpus: bytes, size: int) -> bytes:
    """`corpus` up to the last line end within `size` bytes."""
    return corpus if len(corpus) <= size else corpus[: corpus.rfind(b"\n", 0, size) + 1]
