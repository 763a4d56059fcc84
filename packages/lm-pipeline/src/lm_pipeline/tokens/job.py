"""Plan of one call of make-data, complete before anything is read or written."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lm_core import rng
from lm_core.errors import UserError
from lm_pipeline.program import ProgramConfig
from lm_pipeline.text.config import InputConfig
from lm_pipeline.text.documents import Rules
from lm_pipeline.text.inputs import InputFile, Inputs, find_inputs, no_text
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.tokenizers import TokenizerLike, cutter_of

Split = Literal["train", "validation"]
_HASHED = 1 << 14
"""Bytes at the start of a document that decide whether it is held out, at most: of a long one, no more is known by
then. They are fewer than its first piece has, whose length depends on where the document lies in its file."""


class NoDocumentsError(UserError):
    """A split that is empty, so that nothing can come of the job."""


@dataclass(frozen=True)
class Job:
    """The corpus, what becomes of each document, and the name of all that."""

    files: tuple[InputFile, ...]
    for_validation: range
    """Numbers of the files that are validation inputs; the others are training inputs."""
    rules: Rules
    fraction: float
    seed: int
    by_text: bool
    """Whether a document's text decides whether it is held out; else its number does."""
    fingerprint: str
    """SHA-256 over everything that the token files depend on; with a stream, which is read but once, never the same."""
    left_out: tuple[str, ...] = ()
    """Lines about files in folders that are not read."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The token files that there will be."""
        both = self.fraction > 0 or len(self.for_validation) > 0
        return ("train", "validation") if both else ("train",)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def split_of(self, file: int, document: int, text: bytes = b"") -> Split:
        """Split of a document, `document` being its number in the whole corpus, and `text` its first piece.

        It is a function of (seed, document) or of (seed, text), so it depends on neither threads nor work units.
        """
        if file in self.for_validation:
            return "validation"
        start = text[: min(_HASHED, self.rules.long // 4)]
        word = hashlib.sha256(start).hexdigest() if self.by_text else document
        held_out = self.fraction > 0 and rng.key(self.seed, "validation", word) < self.fraction * 2**128
        return "validation" if held_out else "train"


def plan(config: MakeDataConfig, tokenizer: TokenizerLike) -> Job:
    """Decide what is to be done.

    Raises:
        UserError: when keys contradict each other, or an input is not there.
    """
    if not config.train:
        raise UserError("train: name the files, folders or globs to read")
    if config.validation and config.validation_fraction:
        raise UserError("give validation inputs or a validation_fraction, not both")
    if config.eos_between_documents and tokenizer.eos_id is None:
        raise UserError(
            f"tokenizer {config.tokenizer} has no end-of-text token: set eos_between_documents = false,"
            ' or train one with special_tokens = ["<|endoftext|>"]'
        )
    choice = config.choice(config.output)
    train = find_inputs(config.train, choice)
    validation = find_inputs(config.validation, choice) if config.validation else Inputs()
    _check_disjoint(train.files, validation.files)
    rules = config.rules(cutter_of(tokenizer))
    first = 0 if config.shards else len(train.files)  # who trains meanwhile evaluates at the first step
    job = Job(
        files=(*train.files[:first], *validation.files, *train.files[first:]),
        for_validation=range(first, first + len(validation.files)),
        rules=replace(rules, long=min(rules.long, config.shard_bytes)),
        fraction=config.validation_fraction,
        seed=config.seed,
        by_text=config.held_out_by == "text",
        fingerprint=_fingerprint(config, tokenizer, (*train.files, *validation.files), len(train.files)),
        left_out=(*train.lines(), *validation.lines()),
    )
    _check_fraction(job)
    return job


def _check_disjoint(train: Sequence[InputFile], validation: Sequence[InputFile]) -> None:
    resolved = {file.path.resolve() for file in train}
    for file in validation:
        if file.path.resolve() in resolved:
            raise UserError(f"input {file.path} is both in train and in validation")


def _check_fraction(job: Job) -> None:
    """Raise now, and not after hours, when whole files as documents leave one of the splits empty."""
    whole = not job.rules.separator and all(file.format == "text" and file.size for file in job.files)
    if whole and job.fraction and not job.by_text and len({job.split_of(i, i) for i in range(len(job.files))}) < 2:
        raise NoDocumentsError(no_documents(job, len(job.files)))


def no_documents(job: Job, documents: int, flaws: Sequence[str] = ()) -> str:
    """The line about a split that is empty, with those about what was skipped."""
    because = "".join(f"; {line}" for line in flaws)
    if not documents:
        return f"{no_text(job.files)}{because}"
    if not job.fraction:
        return f"one of train and validation has no text in its inputs{because}"
    advice = "give more text, validation inputs, a larger validation_fraction or another seed"
    if any(file.format in ("text", None) for file in job.files):
        separator = job.rules.separator.decode()
        if not separator:
            advice = f"a text file is one document unless a separator is set; set one, or {advice}"
        elif documents <= len(job.files):
            advice = f"the separator {separator!r} is nowhere in the text; set another, or {advice}"
    return (
        f"validation_fraction = {job.fraction} leaves a split without documents, the corpus having {documents:,}:"
        f" {advice}{because}"
    )


def _fingerprint(
    config: MakeDataConfig, tokenizer: TokenizerLike, files: Sequence[InputFile], for_training: int
) -> str:
    reading = config.model_dump(
        mode="json", include={*InputConfig.model_fields} - {*ProgramConfig.model_fields, "include", "exclude", "format"}
    )
    identity = {
        "version": 2,
        "tokenizer": tokenizer.fingerprint,
        "rules": reading,
        "special_tokens": config.special_tokens,
        "eos": config.eos_between_documents,
        "split": [config.validation_fraction, config.seed],
        "files": [file.identity for file in files],
        "for_training": for_training,
    }
    if config.held_out_by != "number":
        identity["held_out_by"] = config.held_out_by
    if config.shards:
        identity |= {"shard_bytes": config.shard_bytes, "order": "validation first"}
    if any(file.stream for file in files):
        identity["once"] = secrets.token_hex(16)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
