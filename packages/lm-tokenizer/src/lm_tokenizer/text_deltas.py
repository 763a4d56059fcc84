"""Text out of ids as they are drawn, of any tokenizer: a character that is incomplete waits for its other bytes."""

from collections.abc import Sequence
from typing import Protocol

from lm_tokenizer.adapters.protocol import TextTokenizer
from lm_tokenizer.tokenizer import Tokenizer

_CONTEXT = 8
"""Ids before those that are decoded, for tokenizers whose text of an id depends on what stands before it."""


class TextDeltas(Protocol):
    """Ids -> text, a whole number of characters at a time."""

    def feed(self, token_id: int, /) -> str:
        """The text that one more id completes."""

    def finish(self) -> str:
        """The rest, where a character is left incomplete."""


def text_deltas_of(tokenizer: TextTokenizer, prompt: Sequence[int], text: str) -> TextDeltas:
    """A decoder of the ids that follow a prompt, whose texts continue the prompt as it was written.

    Args:
        tokenizer: of the ids.
        prompt: ids of the prompt, one at least.
        text: of the prompt; "" where the ids stand for no text that is shown.
    """
    return tokenizer.stream_decoder() if isinstance(tokenizer, Tokenizer) else DecodedAgain(tokenizer, prompt, text)


class DecodedAgain:
    """For tokenizers that decode whole texts only: the last few ids are decoded again with each new one.

    Where the tokenizer does not keep white space, the prompt as it was written may end otherwise than its decoded ids:
    the first text begins with the space that is missing between the two, or without the one that is there already.
    """

    def __init__(self, tokenizer: TextTokenizer, prompt: Sequence[int], text: str) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._done = len(self._ids)
        decoded = tokenizer.decode(self._ids)
        written_space, decoded_space = text[len(text.rstrip()) :], decoded[len(decoded.rstrip()) :]
        self._missing = decoded_space if text and not written_space else ""
        self._drop_space = bool(written_space) and not decoded_space

    def feed(self, token_id: int, /) -> str:
        """The text that one more id completes."""
        self._ids.append(token_id)
        if self._tokenizer.decode(self._ids).endswith("\ufffd"):  # perhaps an incomplete character
            return ""
        return self.finish()

    def finish(self) -> str:
        """All text that has not been returned."""
        text = self._tokenizer.decode(self._ids)[len(self._tokenizer.decode(self._ids[: self._done])) :]
        self._ids = self._ids[-_CONTEXT:]
        self._done = len(self._ids)
        if text and (self._missing or self._drop_space):
            text = self._missing + (text.lstrip(" ") if self._drop_space else text)
            self._missing, self._drop_space = "", False
        return text
