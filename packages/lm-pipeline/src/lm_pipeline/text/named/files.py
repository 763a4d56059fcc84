"""The text of a dataset by split, read from its files without more of them in memory than is asked for.

Three files are the three splits. A single file is cut 18:1:1, which is the usual 90,000,000 + 5,000,000 + 5,000,000
bytes of enwik8 and text8, and 90, 5 and 5 percent of tinyshakespeare; the cut is exact in integers, and no character
of a text is cut in two.
"""

import codecs
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lm_core.errors import UserError
from lm_pipeline.text.formats import HEAD, check_plain
from lm_pipeline.text.named.table import SPLITS, Dataset, Split, Unit

_CHUNK = 1 << 20
_PARTS = 20
"""18 of them train, one validates, one tests."""


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `stop` of a file."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset that is on this machine."""

    dataset: Dataset
    spans: Mapping[Split, Span]
    """Location of each split."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, in the order of the splits."""
        return tuple(dict.fromkeys(span.path for span in self.spans.values()))

    def size(self, split: Split) -> int:
        """Size of a split in bytes."""
        return self.spans[split].stop - self.spans[split].start

    def read(self, split: Split) -> bytes:
        """The text of a split.

        Raises:
            UserError: when its file is gone or cannot be read.
        """
        span = self.spans[split]
        try:
            with span.path.open("rb") as file:
                file.seek(span.start)
                data = file.read(span.stop - span.start)
        except OSError as error:
            raise UserError(f"cannot read {span.path}: {error.strerror}") from None
        if len(data) != span.stop - span.start:
            raise UserError(f"{span.path} became shorter while it was in use")
        return data


def dataset_files(dataset: Dataset, paths: tuple[Path, ...]) -> DatasetFiles:
    """The splits of the files at `paths`, which are in the order of `dataset.files`.

    Raises:
        UserError: when a single file is too short to be cut into three.
    """
    sizes = [path.stat().st_size for path in paths]
    if len(paths) == len(SPLITS):
        spans = [Span(path, 0, size) for path, size in zip(paths, sizes, strict=True)]
        return DatasetFiles(dataset, dict(zip(SPLITS, spans, strict=True)))
    [path], [size] = paths, sizes
    cuts = [0, *(_boundary(path, size * part // _PARTS, dataset.unit) for part in (18, 19)), size]
    spans = [Span(path, start, stop) for start, stop in itertools.pairwise(cuts)]
    if any(span.start >= span.stop for span in spans):
        raise UserError(f"{path} has {size:,} bytes: too few to train, validate and test on")
    return DatasetFiles(dataset, dict(zip(SPLITS, spans, strict=True)))


def _boundary(path: Path, position: int, unit: Unit) -> int:
    """The first byte from `position` on that begins a character."""
    if unit == "byte":
        return position
    with path.open("rb") as file:
        file.seek(position)
        following = file.read(3)
    return position + len(following) - len(following.lstrip(bytes(range(0x80, 0xC0))))


def check_text(path: Path, unit: Unit, algorithm: str) -> str:
    """Look at all of a file that a person gave, and return its hash.

    Raises:
        UserError: when it is empty; where bytes are not the unit, when it is of another format or not UTF-8, naming the
            byte; where words are, when it has no newline, for their texts are lines.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, lines = 0, False
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                if unit != "byte" and not size:
                    check_plain(str(path), str(path), chunk[:HEAD])
                digest.update(chunk)
                if unit != "byte":
                    _decode(decoder, chunk, size, path)
                lines = lines or b"\n" in chunk
                size += len(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not size:
        raise UserError(f"{path} is empty")
    if unit != "byte":
        _decode(decoder, b"", size, path)
    if unit == "word" and not lines:
        raise UserError(f"{path} has no newline: a word-level text has a sentence or paragraph on each line")
    return digest.hexdigest()


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, before: int, path: Path) -> None:
    """Decode the chunk that follows the first `before` bytes, or the end where it is empty."""
    waiting = len(decoder.getstate()[0])
    try:
        decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        where = before - waiting + error.start
        why = f"byte {where} is not valid UTF-8" if chunk else "it is cut inside a character at its end"
        raise UserError(f"{path} is not UTF-8: {why}; convert it, for example with iconv -t UTF-8") from None
