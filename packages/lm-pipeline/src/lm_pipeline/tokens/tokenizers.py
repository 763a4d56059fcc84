"""The tokenizer that a config names."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lm_pipeline.text.documents import Cut
from lm_tokenizer import Tokenizer, adapters
from lm_tokenizer.boundaries import last_cut
from lm_tokenizer.pretokenize import name_of
from lm_tokenizer.special import Choice


class TokenizerLike(Protocol):
    """Interface of a tokenizer to the command lines."""

    @property
    def vocab_size(self) -> int:
        """Every id is below it."""

    @property
    def eos_id(self) -> int | None:
        """The id that ends a document."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text -> id."""

    @property
    def fingerprint(self) -> str:
        """Tells one tokenizer from another."""

    @property
    def dtype(self) -> DTypeLike:
        """uint16 or uint32."""

    def encode_batch(
        self,
        texts: Sequence[str | bytes],
        threads: int | None = None,
        *,
        allowed_special: Choice = (),
        disallowed_special: Choice = "all",
    ) -> list[NDArray[Any]]:
        """The ids of each text, in order."""


def load_tokenizer(name: str) -> TokenizerLike:
    """The tokenizer that `name` stands for: a folder or file, or kind:path (see `lm_tokenizer.adapters`).

    Raises:
        TokenizerError: for one that is missing, malformed, of an unknown kind, or whose library is not installed.
    """
    return batched(adapters.load_tokenizer(name))


def batched(tokenizer: adapters.TextTokenizer) -> TokenizerLike:
    """The same tokenizer, which encodes several texts at once."""
    return tokenizer if isinstance(tokenizer, Tokenizer) else OneByOne(tokenizer)


def tokenizer_in(folder: Path) -> adapters.TextTokenizer | None:
    """The tokenizer that a folder holds; None for none, which one that cannot be read is not.

    Raises:
        TokenizerError: when there are files of one, and they cannot be read, now or ever.
    """
    return None if adapters.tokenizer_file_in(folder) is None else adapters.load_tokenizer(folder)


def cutter_of(tokenizer: TokenizerLike) -> Cut | None:
    """Return a function that cuts a text without changing its ids: for our own tokenizers alone, see `cutter`."""
    if not isinstance(tokenizer, Tokenizer):
        return None
    return cutter(tokenizer.vocabulary.pattern, list(tokenizer.vocabulary.found_tokens))


def cutter(pattern: str, special_tokens: Sequence[str]) -> Cut | None:
    """Return a function that cuts a text without splitting a pretoken or special token: for published patterns.

    A cut is before a space or newline.
    """
    if name_of(pattern) is None:
        return None
    spaced = [token.encode() for token in special_tokens if " " in token or "\n" in token]
    longest = max(map(len, spaced), default=0)

    def cut(text: bytes) -> int:
        end: int | None = max(0, len(text) - longest)  # a special token that begins before is there in whole
        while end and (end := last_cut(text, 0, end, pattern)):
            across = [text.find(token, max(0, end - len(token) + 1), end + len(token) - 1) for token in spaced]
            if max(across, default=-1) < 0:
                return end
            end = min(at for at in across if at >= 0)
        return 0

    return cut


class OneByOne:
    """An adapter, which takes one text at a time, behind the face of ours."""

    def __init__(self, adapter: adapters.TextTokenizer) -> None:
        self._adapter = adapter
        self.vocab_size, self.eos_id = adapter.vocab_size, adapter.eos_id
        self.special_tokens, self.fingerprint = adapter.special_tokens, adapter.fingerprint
        self.dtype: DTypeLike = np.uint16 if adapter.vocab_size <= 1 << 16 else np.uint32

    def encode_batch(
        self,
        texts: Sequence[str | bytes],
        threads: int | None = None,
        *,
        allowed_special: Choice = (),
        disallowed_special: Choice = "all",
    ) -> list[NDArray[Any]]:
        """The ids of each text, in order; libraries that let go of the interpreter use the threads."""

        def encode(text: str | bytes) -> NDArray[Any]:
            text = text.decode() if isinstance(text, bytes) else text
            return self._adapter.encode_array(
                text, allowed_special=allowed_special, disallowed_special=disallowed_special
            )

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(encode, texts))
