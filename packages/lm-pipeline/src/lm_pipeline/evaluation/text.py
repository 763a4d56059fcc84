"""The ids that a model is evaluated on: of texts, or of a token file.

    files --documents--> ids, end of text before and behind each      token file --> ids as they stand

A tokenizer without an end of text has the documents joined, and then the first id is context and not a target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_core.data.bare_tokens import is_bare, open_bare
from lm_core.data.batches import Ids
from lm_core.data.shards import TokenStream, is_stream, read_stream_record
from lm_core.data.token_file import TokenFile
from lm_core.errors import UserError
from lm_pipeline.text.config import InputConfig
from lm_pipeline.text.documents import Flaw, Place
from lm_pipeline.text.inputs import find_inputs
from lm_pipeline.text.read import read_file
from lm_pipeline.tokens.tokenizers import batched
from lm_pipeline.training import text_byte_lengths
from lm_tokenizer.adapters import TextTokenizer


@dataclass(frozen=True)
class EvaluationText:
    """Ids in order, of which all but the first are targets."""

    name: str
    """Description for the user."""
    ids: Ids
    text_bytes: int | None = None
    """UTF-8 bytes of the targets' text; None where only the ids tell."""


def read_texts(names: Sequence[str], config: InputConfig, tokenizer: TextTokenizer) -> EvaluationText:
    """The texts of files, folders and globs, see `InputConfig`; names of special tokens in them are text.

    Raises:
        UserError: when one cannot be read, or none has any text.
        TokenizerError: for a text that the tokenizer has no ids for.
    """
    documents = [document for document in _documents(names, config) if document]
    if not documents:
        raise UserError(f"text: {', '.join(names[:3])} {'has' if len(names) == 1 else 'have'} no text to evaluate on")
    encoder, end = batched(tokenizer), [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    encoded = encoder.encode_batch(documents, disallowed_special=())
    last = np.array(end, encoder.dtype)
    ids = np.concatenate([last, *(part for document in encoded for part in (document, last))])
    size = sum(map(len, documents))
    return EvaluationText(", ".join(names), ids, size if end else size - _first_bytes(ids, tokenizer))


def open_tokens(path: str, tokenizer: TextTokenizer) -> EvaluationText:
    """The ids of a token file, or of the validation part of a stream of shards.

    Raises:
        UserError: when it is missing, damaged, of another tokenizer, or a stream that is not complete.
    """
    try:
        if is_stream(path):
            return _stream(Path(path), tokenizer)
        bare = is_bare(path)
        file = (
            open_bare(path, tokenizer.vocab_size, tokenizer.eos_id)
            if bare
            else TokenFile.open(path, tokenizer.fingerprint)
        )
    except UserError as error:
        raise UserError(f"tokens: {error}") from None
    if len(file) < 2:
        raise UserError(f"tokens: {path} has no target to evaluate on: it has {len(file)} tokens, and two are needed")
    known = None if bare else file.metadata.bytes - _first_bytes(file.tokens, tokenizer)
    return EvaluationText(Path(path).name, file.tokens, known)


def _stream(path: Path, tokenizer: TextTokenizer) -> EvaluationText:
    record = read_stream_record(path)
    if record is None:
        raise UserError(f"{path} is not complete: wait for make-data, or run it again")
    ids = TokenStream.open(path, "validation", tokenizer.fingerprint).tokens
    ids.wait(record.tokens["validation"] + 1)
    return EvaluationText(path.name, ids, record.bytes["validation"] - _first_bytes(ids, tokenizer))


def _documents(names: Sequence[str], config: InputConfig) -> Iterator[bytes]:
    for file in find_inputs(names, config.choice()).files:
        parts: list[bytes] = []
        for piece in read_file(file, Place(), config.rules(None)):
            if isinstance(piece, Flaw):
                continue
            parts.append(piece.data)
            if piece.ends:
                yield b"".join(parts)
                parts = []


def _first_bytes(ids: Ids, tokenizer: TextTokenizer) -> int:
    """Bytes of the id that is no target."""
    return int(text_byte_lengths(tokenizer)[int(ids[0])])
