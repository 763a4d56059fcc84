"""From the corpus to the token files of work units.

    files --read ahead in a thread--> batches of pieces --encode_batch, in threads--> one token file a split and unit

A batch is what is encoded at once, a unit what is done again after a kill. Neither changes the result.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lm_core.errors import UserError
from lm_pipeline.text.documents import Flaw, Piece, Place
from lm_pipeline.text.read import read_file
from lm_pipeline.tokens.config import SpecialTokens
from lm_pipeline.tokens.job import Job, Split
from lm_pipeline.tokens.tokenizers import TokenizerLike
from lm_pipeline.tokens.units import FlawCount, Parts, Progress, Unit
from lm_tokenizer.errors import SpecialTokenError, TokenizerError
from lm_tokenizer.special import Choice
from lm_tokenizer.token_file import TokenFileWriter

T = TypeVar("T")
_CHOICES: dict[SpecialTokens, tuple[Choice, Choice]] = {"refuse": ((), "all"), "text": ((), ()), "ids": ("all", ())}


@dataclass(frozen=True)
class Placed:
    """A piece, and where it comes from and goes to."""

    piece: Piece
    file: int
    document: int
    split: Split


@dataclass
class Batch:
    """Pieces that follow one another."""

    pieces: list[Placed]
    after: Progress
    flaws: list[FlawCount] = field(default_factory=list)
    """Flaws on the way."""

    def count(self, flaw: Flaw, file: int) -> None:
        """Add a flaw, to the last one where it is of the same kind."""
        last = self.flaws[-1] if self.flaws else None
        if last and (last.file, last.reason) == (file, flaw.reason):
            self.flaws[-1] = last.model_copy(update={"count": last.count + flaw.count})
        else:
            self.flaws.append(FlawCount(file=file, reason=flaw.reason, count=flaw.count, first=flaw.where))


def batches(job: Job, start: Progress) -> Iterator[Batch]:
    """The corpus from `start` on, in batches of `job.rules.long` bytes or a little more."""
    batch, held, documents = Batch([], start), 0, start.documents
    split = start.split if start.inside else None
    for number in range(start.file, len(job.files)):
        place = start.place if number == start.file else Place()
        for piece in read_file(job.files[number], place, job.rules):
            if isinstance(piece, Flaw):
                batch.count(piece, number)
            else:
                split = split or job.split_of(number, documents, piece.data)
                batch.pieces.append(Placed(piece, number, documents, split))
                split = None if piece.ends else split
                documents += piece.ends
                held += len(piece.data)
            here = piece.after
            batch.after = Progress(
                file=number,
                offset=here.offset,
                record=here.record,
                inside=here.inside,
                state=here.state,
                documents=documents,
                split=split,
            )
            if held >= job.rules.long:
                yield batch
                batch, held = Batch([], batch.after), 0
    if batch.pieces or batch.flaws:
        yield batch


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used."""
    end, pool = object(), ThreadPoolExecutor(1)
    try:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=False)  # else whoever ends here waits for a pipe or the network


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and how it is used on this corpus."""

    tokenizer: TokenizerLike
    job: Job
    special_tokens: SpecialTokens
    eos: bool
    threads: int | None

    def encode(self, batch: Batch) -> list[NDArray[Any]]:
        """The ids of each piece.

        Raises:
            UserError: for a special token in the text, when those are refused, or a text that cannot be encoded.
        """
        try:
            return self._ids([placed.piece.data for placed in batch.pieces])
        except TokenizerError:
            self._blame(batch)
            raise

    @property
    def end(self) -> NDArray[Any]:
        """The ids that are put behind every document: one, or none."""
        return np.array([self.tokenizer.eos_id] if self.eos else [], self.tokenizer.dtype)

    def writer(self, path: Any) -> TokenFileWriter:
        """A token file for these ids."""
        tokenizer = self.tokenizer
        return TokenFileWriter(
            path,
            tokenizer.dtype,
            vocab_size=tokenizer.vocab_size,
            fingerprint=tokenizer.fingerprint,
            eos_id=tokenizer.eos_id,
            source=self.job.fingerprint,
            pair=self.job.fingerprint if len(self.job.splits) > 1 else "",
        )

    def _ids(self, texts: list[str | bytes]) -> list[NDArray[Any]]:
        allowed, disallowed = _CHOICES[self.special_tokens]
        return self.tokenizer.encode_batch(texts, self.threads, allowed_special=allowed, disallowed_special=disallowed)

    def _blame(self, batch: Batch) -> None:
        """Raise a UserError for the first piece that cannot be encoded on its own."""
        for placed in batch.pieces:
            try:
                self._ids([placed.piece.data])
            except SpecialTokenError as error:
                file = self.job.files[placed.file]
                end = f"separator = {error.token!r} to end documents there, or " if file.format == "text" else ""
                raise UserError(
                    f"input {file.path} holds the special token {error.token!r} in its text, in document"
                    f' {placed.document + 1:,} of the corpus: set {end}special_tokens = "ids" or "text" to take it so'
                ) from None
            except TokenizerError as error:
                raise UserError(f"input {self.job.files[placed.file].path}: {error}") from None


class UnitFiles:
    """The token files of one unit, one for each split that has any of its documents; leaving the block commits them."""

    def __init__(self, encoder: Encoder, parts: Parts) -> None:
        self.encoder, self.parts = encoder, parts
        self.size = 0
        """Bytes of text."""
        self.flaws: list[FlawCount] = []
        self._files: dict[Split, TokenFileWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits that it has ids for."""
        return tuple(sorted(self._files))

    def write(self, batch: Batch) -> None:
        """Encode a batch and append it."""
        self.flaws += batch.flaws
        encoded, end = self.encoder.encode(batch), self.encoder.end
        for split in dict.fromkeys(placed.split for placed in batch.pieces):
            ids: list[NDArray[Any]] = []
            size = documents = 0
            for placed, found in zip(batch.pieces, encoded, strict=True):
                if placed.split == split:
                    ids += [found, end] if placed.piece.ends else [found]
                    size += len(placed.piece.data)
                    documents += placed.piece.ends
            self._file(split).write(np.concatenate(ids), size, documents)
            self.size += size

    def _file(self, split: Split) -> TokenFileWriter:
        if split not in self._files:
            self._files[split] = self._stack.enter_context(self.encoder.writer(self.parts.path(split)))
        return self._files[split]


def encode_units(encoder: Encoder, parts: Parts, shard_bytes: int, show: Callable[[Progress], None]) -> None:
    """Write the units that are not there yet; `show` is called with the progress.

    Raises:
        UserError: for what is wrong with the corpus.
        TokenizerError, OSError: when a part cannot be written; the units before it are whole.
    """
    corpus = one_ahead(batches(encoder.job, parts.progress))
    for first in corpus:
        with UnitFiles(encoder, parts) as unit:
            batch: Batch | None = first
            while batch:
                unit.write(batch)
                show(after := batch.after)
                batch = next(corpus, None) if unit.size < shard_bytes else None
        parts.add(Unit(splits=unit.splits, after=after, flaws=tuple(unit.flaws)))
