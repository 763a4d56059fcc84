"""Text out of ids as they are drawn, of any tokenizer: a character that is incomplete waits for its other bytes."""

from collections.abc import Sequence
from typing import Protocol

from lm_tokenizer.adapters.protocol import TextTokenizer
from lm_tokenizer.tokenizer import Tokenizer

_CONTEXT = 8
"""Ids before those that are decoded, for tokenizers whose text of an id depends on what stands before it."""


class Pieces(Protocol):
    """Ids -> text, a whole number of characters at a time."""

    def feed(self, token_id: int, /) -> str:
        """The text that one more id completes."""

    def finish(self) -> str:
        """The rest, where a character is left incomplete."""


def pieces_of(tokenizer: TextTokenizer, prompt: Sequence[int]) -> Pieces:
    """What decodes the ids that follow `prompt`."""
    return tokenizer.stream_decoder() if isinstance(tokenizer, Tokenizer) else DecodedAgain(tokenizer, prompt)


class DecodedAgain:
    """For tokenizers that decode whole texts only: the last few ids are decoded again with each new one."""

    def __init__(self, tokenizer: TextTokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._done = len(self._ids)

    def feed(self, token_id: int, /) -> str:
        """The text that one more id completes."""
        self._ids.append(token_id)
        if self._tokenizer.decode(self._ids).endswith("\ufffd"):  # perhaps a character that goes on
            return ""
        return self.finish()

    def finish(self) -> str:
        """All text that has not been returned."""
        text = self._tokenizer.decode(self._ids)[len(self._tokenizer.decode(self._ids[: self._done])) :]
        self._ids = self._ids[-_CONTEXT:]
        self._done = len(self._ids)
        return text
