"""Documents in memory -> a tokenizer learned from them, and their ids."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lm_core.errors import UserError
from lm_pipeline.tokens.tokenizers import batched
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import TextTokenizer, train_tokenizer
from lm_tokenizer.adapters.source import parts
from lm_tokenizer.errors import TokenizerError

Kind = Literal["ours", "hf", "sentencepiece"]
"""Own byte-level BPE, that of Hugging Face's tokenizers, or SentencePiece's unigram model."""
SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
_KINDS: Mapping[Kind, tuple[str, dict[str, Any]]] = {
    "ours": ("bpe", {"special_tokens_first": True}),
    "hf": ("hf", {}),
    "sentencepiece": ("sentencepiece", {}),
}


def learn_tokenizer(kind: Kind, documents: Sequence[str], vocab_size: int) -> TextTokenizer:
    """Learn a tokenizer that gives every text back exactly, with the special tokens `SPECIAL_TOKENS`.

    Its vocabulary is smaller than `vocab_size` where the documents do not have as many different words.

    Raises:
        UserError: when `vocab_size` is too small for the bytes and the special tokens, or a library is missing.
    """
    name, options = _KINDS[kind]
    try:
        return train_tokenizer(name, documents, vocab_size, SPECIAL_TOKENS, **options)
    except TokenizerError as error:
        raise UserError(f"the tokenizer {kind} cannot be learned: {error}") from None


def encode_documents(tokenizer: TextTokenizer, documents: Sequence[str]) -> NDArray[Any]:
    """The ids of all documents in order, `eos_id` behind each, shape (n,): uint16, or uint32 for large vocabularies.

    Names of special tokens in a document are text. A library takes a long document in parts that end with a line,
    where a token that would cross such an end is split.
    """
    encoder, end = batched(tokenizer), tokenizer.eos_id
    texts = [[document] if isinstance(tokenizer, Tokenizer) else list(parts(document)) for document in documents]
    encoded = iter(encoder.encode_batch([text for document in texts for text in document], disallowed_special=()))
    last = [np.array([] if end is None else [end], encoder.dtype)]
    return np.concatenate([array for document in texts for array in (*(next(encoded) for _ in document), *last)])
