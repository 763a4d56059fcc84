"""A prompt as its tokenizer reads it: ids, and what was lost on the way."""

from collections.abc import Callable

from lm_core.errors import UserError
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.errors import TokenizerError

_UNKNOWN = "<unk>"
_MOST_NAMED = 8
_JOINING = ("bpe", "hf", "sentencepiece", "tiktoken")
"""Kinds of tokenizers that join a space to the word after it."""

SPACE_AT_THE_END = "ends with a space, which the tokenizer joins to the word that follows: leave it out"


def read_prompt(text: str, tokenizer: TextTokenizer, seq_len: int, note: Callable[[str], None]) -> list[int]:
    """The ids of a prompt, one at least.

    `note` is called with what the model will not see: words that the vocabulary lacks, and what is beyond its context.

    Raises:
        UserError: for a prompt that has no ids.
    """
    ids = _encoded(text, tokenizer)
    if not ids:
        raise UserError("this prompt has no tokens: there is nothing to continue")
    unknown = _unknown(text, tokenizer)
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED:,} more" if len(unknown) > _MOST_NAMED else ""
        named = ", ".join(map(repr, unknown[:_MOST_NAMED]))
        note(f"note: not in the vocabulary, and read as {_UNKNOWN}: {named}{more}")
    if ends_before_a_word(text, tokenizer):
        note(f"note: the prompt {SPACE_AT_THE_END}")
    if len(ids) > seq_len:
        note(f"note: the prompt has {len(ids):,} tokens and the model reads {seq_len:,} at once: only its end is read")
    return ids


def ends_before_a_word(text: str, tokenizer: TextTokenizer) -> bool:
    """Whether a prompt ends with a space that its tokenizer joins to a word, so that a model has seldom seen it so."""
    return text.endswith(" ") and tokenizer.name in _JOINING


def _encoded(text: str, tokenizer: TextTokenizer) -> list[int]:
    try:
        text.encode()  # a byte that is no UTF-8 comes as a lone surrogate (PEP 383)
    except UnicodeEncodeError as error:
        raise UserError(f"this prompt is not UTF-8 at character {error.start + 1}") from None
    try:
        return tokenizer.encode(text, allowed_special="all", disallowed_special=())
    except TokenizerError as error:
        raise UserError(str(error)) from None


def _unknown(text: str, tokenizer: TextTokenizer) -> list[str]:
    """The words, or characters, that became the unknown one, each once, for tokenizers that have such."""
    unknown = tokenizer.special_tokens.get(_UNKNOWN)
    if unknown is None or tokenizer.name not in ("words", "characters"):
        return []
    units = text.split() if tokenizer.name == "words" else text.replace(_UNKNOWN, "")
    return [unit for unit in dict.fromkeys(units) if unit != _UNKNOWN and _encoded(unit, tokenizer) == [unknown]]
