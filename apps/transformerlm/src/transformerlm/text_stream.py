"""Text out of ids as they are drawn: what could still change waits.

    id --pieces--> whole characters --StopStrings--> text that is sure

An incomplete character waits for its other bytes, and what may be the beginning of a stop string for its end.
"""

from collections.abc import Sequence
from typing import Protocol

from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import TextTokenizer

_CONTEXT = 8
"""Ids before those that are decoded, for tokenizers whose text of an id depends on what stands before it."""


class Pieces(Protocol):
    """Ids -> text, a whole number of characters at a time."""

    def feed(self, ids: int) -> str:
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

    def feed(self, ids: int) -> str:
        """The text that one more id completes."""
        self._ids.append(ids)
        if self._tokenizer.decode(self._ids).endswith("\ufffd"):  # perhaps a character that goes on
            return ""
        return self.finish()

    def finish(self) -> str:
        """All text that has not been returned."""
        text = self._tokenizer.decode(self._ids)[len(self._tokenizer.decode(self._ids[: self._done])) :]
        self._ids = self._ids[-_CONTEXT:]
        self._done = len(self._ids)
        return text


class StopStrings:
    """Lets text through up to the first stop string that is complete; the stop string itself is not let through."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is sure not to be in a stop string."""
        self._held += text
        # The one that ends first, however the text is cut into pieces; of two, the longer.
        ends = [(at + len(s), at) for s in self._strings if (at := self._held.find(s)) >= 0]
        if ends:
            self.found = True
            return self._release(min(ends)[1], "")
        return self._release(len(self._held) - self._open())

    def finish(self) -> str:
        """What was held back: no stop string follows."""
        return self._release(len(self._held))

    def _release(self, end: int, left: str | None = None) -> str:
        sure, self._held = self._held[:end], self._held[end:] if left is None else left
        return sure

    def _open(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(len(self._held), max(map(len, self._strings), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._strings)), 0)
