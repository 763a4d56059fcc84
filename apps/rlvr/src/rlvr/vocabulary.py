"""The one vocabulary of all tasks and runs: a character an id, and the end of an answer.

A completion is text with the end spelled out (`END`) where the model has ended it; no character of `END` but its
letters is in the vocabulary, so a model cannot spell it out otherwise.
"""

import string
from collections.abc import Sequence

from lm_core.errors import UserError
from lm_tokenizer.adapters.characters import CharacterTokenizer
from lm_tokenizer.errors import TokenizerError

END = "<eos>"
CHARACTERS = string.ascii_lowercase + string.digits + " +-*/=%^&|~!?.,:;_#@$'\"()[]{}"
VOCABULARY = CharacterTokenizer(CHARACTERS, [END])
END_ID = VOCABULARY.special_tokens[END]


def encode(text: str) -> list[int]:
    """The ids of a prompt or a completion.

    Raises:
        UserError: for a character that the vocabulary lacks.
    """
    try:
        return VOCABULARY.encode(text, allowed_special="all")
    except TokenizerError:
        [wrong, *_] = set(text.replace(END, "")) - set(CHARACTERS)
        raise UserError(f"{text!r} has the character {wrong!r}; the vocabulary has {CHARACTERS!r}") from None


def decode(ids: Sequence[int]) -> str:
    """The text of ids, the end spelled out."""
    return VOCABULARY.decode(ids)
