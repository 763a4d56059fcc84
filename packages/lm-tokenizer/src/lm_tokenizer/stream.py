"""Decoding ids as they come: a character's bytes may be spread over several tokens, so what is incomplete waits."""

import codecs
from collections.abc import Iterable, Sequence
from operator import index
from typing import Literal

from lm_tokenizer.errors import TokenizerError


class StreamDecoder:
    """Turns a stream of ids into text, a whole number of characters at a time.

    What the calls of `feed` and the last one of `finish` return is, joined, what all ids decoded at once would be.
    One decoder is for one stream, in one thread.
    """

    def __init__(self, token_of_id: Sequence[bytes], errors: Literal["strict", "replace"] = "replace") -> None:
        """Decode by `token_of_id`; what is not UTF-8 becomes U+FFFD, or with errors="strict" an error."""
        self._tokens = token_of_id
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._ids_seen = 0
        self._bytes_seen = 0

    def feed(self, ids: int | Iterable[int]) -> str:
        """The text that one id or several complete.

        Raises:
            TokenizerError: for an id outside the vocabulary, before any of `ids` is decoded; with errors="strict" also
                for bytes that no continuation makes UTF-8.
        """
        data = b"".join(self._bytes_of(ids if isinstance(ids, Iterable) else (ids,)))
        return self._decode(data, final=False)

    def finish(self) -> str:
        """The end of the text, where an incomplete character is left; the decoder is ready for another stream.

        Raises:
            TokenizerError: with errors="strict", when a character is incomplete.
        """
        try:
            return self._decode(b"", final=True)
        finally:
            self._decoder.reset()
            self._ids_seen = self._bytes_seen = 0

    def _bytes_of(self, ids: Iterable[int]) -> list[bytes]:
        tokens, size = self._tokens, len(self._tokens)
        found = []
        for position, token_id in enumerate(map(index, ids), self._ids_seen):
            if not 0 <= token_id < size:
                raise TokenizerError(
                    f"the id {token_id} at position {position} is outside the vocabulary, whose ids are 0 to {size - 1}"
                )
            found.append(tokens[token_id])
        self._ids_seen += len(found)
        return found

    def _decode(self, data: bytes, *, final: bool) -> str:
        waiting = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            at = self._bytes_seen - waiting + error.start
            raise TokenizerError(f"the ids are not UTF-8 at byte {at}: {error.reason}") from None
        self._bytes_seen += len(data)
        return text
