"""The files of a tokenizer that go beside a model, such that `transformers.AutoTokenizer` loads them.

`tokenizer.json` says how text becomes ids; which of its tokens ends a text stands in `tokenizer_config.json`, by its
text. The latter is made here from the id.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_core.config import ModelConfig
from lm_core.errors import UserError

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
NAMES = (TOKENIZER, SETTINGS, "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
"""Known file names of a tokenizer."""


def complete(given: Mapping[str, bytes], config: ModelConfig, eos_ids: Sequence[int]) -> dict[str, bytes]:
    """The files as they are given, with a `tokenizer_config.json` where there is none.

    Raises:
        UserError: for a file of another name, a `tokenizer.json` that is malformed or has more ids than the model, an
            end of text that is not one of its tokens.
    """
    for name in given:
        if name not in NAMES:
            raise UserError(f"{name!r} is not a tokenizer file: known are {', '.join(NAMES)}")
    if TOKENIZER not in given:
        return dict(given)
    tokens = _tokens(given[TOKENIZER])
    if (highest := max(tokens, default=0)) >= config.vocab_size:
        raise UserError(f"{TOKENIZER} has the id {highest}, and the model's vocab_size is {config.vocab_size}")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # any other would change the way text is split
        "model_max_length": config.seq_len,
        "clean_up_tokenization_spaces": False,
    }
    for eos_id in eos_ids:
        if eos_id not in tokens:
            raise UserError(f"eos_id {eos_id} is not a token of {TOKENIZER}")
        settings.setdefault("eos_token", tokens[eos_id])
    return {SETTINGS: json.dumps(settings, indent=2).encode(), **given}


def size(given: Mapping[str, bytes]) -> int | None:
    """One more than the highest id of the `tokenizer.json` among the files; None where there is none.

    Raises:
        UserError: when it is malformed.
    """
    return max(_tokens(given[TOKENIZER]), default=-1) + 1 if TOKENIZER in given else None


def _tokens(document: bytes) -> dict[int, str]:
    """Id -> text, of the vocabulary and the added tokens."""
    try:
        said = json.loads(document)
        vocab = said["model"]["vocab"]
        pairs = vocab.items() if isinstance(vocab, dict) else ((piece[0], i) for i, piece in enumerate(vocab))
        added = {int(token["id"]): str(token["content"]) for token in said.get("added_tokens") or []}
        return {int(i): str(text) for text, i in pairs} | added
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{TOKENIZER} is malformed ({type(error).__name__}: {error})") from None
