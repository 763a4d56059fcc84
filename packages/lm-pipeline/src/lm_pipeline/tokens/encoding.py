"""From the corpus to the token files of work units.

    files --read ahead in a thread--> batches of pieces --workers: encode--> ids --> one token file a split and unit

A batch is what is encoded at once, here or on another machine, a unit what is done again after a kill. Neither changes
the result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lm_core.errors import UserError
from lm_pipeline.text.documents import Flaw, Piece, Place
from lm_pipeline.text.read import read_file
from lm_pipeline.tokens.config import SpecialTokens
from lm_pipeline.tokens.job import Job, Split
from lm_pipeline.tokens.tokenizers import TokenizerLike
from lm_pipeline.tokens.units import FlawCount, Parts, Progress, Unit
from lm_pipeline.workers import Workers
from lm_tokenizer.errors import SpecialTokenError, TokenizerError
from lm_tokenizer.special import Choice
from lm_tokenizer.token_file import TokenFileWriter

_CHOICES: dict[SpecialTokens, tuple[Choice, Choice]] = {"refuse": ((), "all"), "text": ((), ()), "ids": ("all", ())}


@dataclass
class Batch:
    """Pieces that follow one another; entry i of each list is of piece i. Plain lists go to another process fast."""

    after: Progress
    texts: list[bytes] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    """Whether the piece ends its document."""
    splits: list[Split] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    """Number of its document in the corpus."""
    flaws: list[FlawCount] = field(default_factory=list)
    """Flaws on the way."""

    def add(self, piece: Piece, file: int, document: int, split: Split) -> None:
        """Append a piece."""
        self.texts.append(piece.data)
        self.ends.append(piece.ends)
        self.splits.append(split)
        self.files.append(file)
        self.documents.append(document)

    def count(self, flaw: Flaw, file: int) -> None:
        """Add a flaw, to the last one where it is of the same kind."""
        last = self.flaws[-1] if self.flaws else None
        if last and (last.file, last.reason) == (file, flaw.reason):
            self.flaws[-1] = last.model_copy(update={"count": last.count + flaw.count})
        else:
            self.flaws.append(FlawCount(file=file, reason=flaw.reason, count=flaw.count, first=flaw.where))


def batches(job: Job, start: Progress) -> Iterator[Batch]:
    """The corpus from `start` on, in batches of `job.rules.long` bytes or a little more."""
    batch, held, documents = Batch(start), 0, start.documents
    split = start.split if start.inside else None
    for number in range(start.file, len(job.files)):
        place = start.place if number == start.file else Place()
        for piece in read_file(job.files[number], place, job.rules):
            if isinstance(piece, Flaw):
                batch.count(piece, number)
            else:
                split = split or job.split_of(number, documents, piece.data)
                batch.add(piece, number, documents, split)
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
                batch, held = Batch(batch.after), 0
    if batch.texts or batch.flaws:
        yield batch


@dataclass(frozen=True)
class Encoded:
    """What a batch adds to the token file of a split."""

    ids: NDArray[Any]
    bytes: int
    """Of text."""
    documents: int
    """That end in it."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and how it is used on this corpus."""

    tokenizer: TokenizerLike
    job: Job
    special_tokens: SpecialTokens
    eos: bool
    threads: int | None

    def encode(self, batch: Batch) -> dict[Split, Encoded]:
        """The ids of each split that the batch has pieces of, the end-of-text id behind each document.

        Raises:
            UserError: for a special token in the text, when those are refused, or a text that cannot be encoded.
        """
        try:
            found = self._ids(batch.texts)
        except TokenizerError:
            self._blame(batch)
            raise
        encoded, end = {}, self._end
        for split in dict.fromkeys(batch.splits):
            ids: list[NDArray[Any]] = []
            size = documents = 0
            for text, of_text, ends, its_split in zip(batch.texts, found, batch.ends, batch.splits, strict=True):
                if its_split == split:
                    ids += [of_text, end] if ends else [of_text]
                    size += len(text)
                    documents += ends
            encoded[split] = Encoded(np.concatenate(ids), size, documents)
        return encoded

    @property
    def _end(self) -> NDArray[Any]:
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

    def _ids(self, texts: Sequence[str | bytes]) -> list[NDArray[Any]]:
        allowed, disallowed = _CHOICES[self.special_tokens]
        return self.tokenizer.encode_batch(texts, self.threads, allowed_special=allowed, disallowed_special=disallowed)

    def _blame(self, batch: Batch) -> None:
        """Raise a UserError for the first piece that cannot be encoded on its own."""
        for text, number, document in zip(batch.texts, batch.files, batch.documents, strict=True):
            file = self.job.files[number]
            try:
                self._ids([text])
            except SpecialTokenError as error:
                end = f"separator = {error.token!r} to end documents there, or " if file.format == "text" else ""
                raise UserError(
                    f"input {file.path} holds the special token {error.token!r} in its text, in document"
                    f' {document + 1:,} of the corpus: set {end}special_tokens = "ids" or "text" to take it so'
                ) from None
            except TokenizerError as error:
                raise UserError(f"input {file.path}: {error}") from None


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

    def write(self, batch: Batch, encoded: dict[Split, Encoded]) -> None:
        """Append what a batch has come to."""
        self.flaws += batch.flaws
        for split, part in encoded.items():
            self._file(split).write(part.ids, part.bytes, part.documents)
            self.size += part.bytes

    def _file(self, split: Split) -> TokenFileWriter:
        if split not in self._files:
            self._files[split] = self._stack.enter_context(self.encoder.writer(self.parts.path(split)))
        return self._files[split]


def encode_units(
    encoder: Encoder, parts: Parts, shard_bytes: int, show: Callable[[Progress], None], pool: Workers
) -> None:
    """Write the units that are not there yet; `show` is called with the progress, `pool` encodes.

    Raises:
        UserError: for what is wrong with the corpus.
        TokenizerError, OSError: when a part cannot be written; the units before it are whole.
    """
    done = pool.calls(encoder.encode, batches(encoder.job, parts.progress))
    for first in done:
        with UnitFiles(encoder, parts) as unit:
            found: tuple[Batch, dict[Split, Encoded]] | None = first
            while found:
                unit.write(*found)
                show(after := found[0].after)
                found = next(done, None) if unit.size < shard_bytes else None
        parts.add(Unit(splits=unit.splits, after=after, flaws=tuple(unit.flaws)))
