"""Protocol of a tokenizer to an app, and the code that the adapters share."""

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.saved import Saved
from lm_tokenizer.special import NAMES_OF_THE_END, Choice, SpecialTokens
from lm_tokenizer.surrogates import as_unicode

Ids = NDArray[Any]


@runtime_checkable
class TextTokenizer(Protocol):
    """Text <-> ids. `lm_tokenizer.Tokenizer` is one, and so is every adapter."""

    @property
    def name(self) -> str:
        """Its kind, as `load_tokenizer` spells it."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text, where there is one."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The tokens that stand for no text, by their names."""

    @property
    def byte_lengths(self) -> NDArray[np.int64]:
        """Bytes of UTF-8 that each id adds to the decoded text, shape (vocab_size,); each adapter says how it counts.

        Bits per byte leave out the ids in `special_tokens`, which are not text.
        """

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides the ids."""

    def encode(self, text: str, *, allowed_special: Choice = (), disallowed_special: Choice = "all") -> list[int]:
        """The ids of a text; nothing is added around it. The choice is that of `SpecialTokens`."""

    def encode_array(self, text: str, *, allowed_special: Choice = (), disallowed_special: Choice = "all") -> Ids:
        """The ids of a text, shape (n,): uint16 when vocab_size is at most 65,536, else uint32."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; what is not UTF-8 becomes U+FFFD."""

    def save(self, folder: Path) -> None:
        """Write it into a folder, from which `load_tokenizer` reads it back."""

    def is_saved_in(self, folder: Path) -> bool | None:
        """Whether the tokenizer in a folder is this one; None where it holds none."""


class Adapter(Saved, ABC):
    """Shared code of the adapters: the choice of special tokens, arrays, and ids that are checked."""

    name: str

    def __init__(self, vocab_size: int, special_tokens: Mapping[str, int], eos_id: int | None = None) -> None:
        self.vocab_size = vocab_size
        self.special_tokens: Mapping[str, int] = dict(sorted(special_tokens.items(), key=lambda item: item[1]))
        if eos_id is None:
            eos_id = next((special_tokens[name] for name in NAMES_OF_THE_END if name in special_tokens), None)
        self.eos_id = eos_id
        self._special = SpecialTokens(self.special_tokens)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size:,} tokens)"

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """The ids of a text in which nothing is special."""

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of ids that are in the vocabulary."""

    @abstractmethod
    def _byte_lengths(self) -> list[int]:
        """Content of `byte_lengths`."""

    @abstractmethod
    def _content(self) -> bytes:
        """Data that decides the ids."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it into a folder, from which `load_tokenizer` reads it back.

        Raises:
            TokenizerError: when it cannot be written; no file is left half-written then.
        """

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """Bytes of UTF-8 that each id adds to the decoded text, shape (vocab_size,)."""
        return np.array(self._byte_lengths(), dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over all that decides the ids."""
        return hashlib.sha256(self.name.encode() + b"\0" + self._content()).hexdigest()

    def encode(self, text: str, *, allowed_special: Choice = (), disallowed_special: Choice = "all") -> list[int]:
        """The ids of a text; nothing is added around it.

        Raises:
            SpecialTokenError: when the text holds a disallowed special token.
            TokenizerError: when it holds a lone surrogate, or what the tokenizer has no id for.
        """
        whole = as_unicode(text)
        ids: list[int] = []
        end = 0
        for start, stop, token_id in self._special.find_in(text, whole, allowed_special, disallowed_special):
            ids += self._encode(whole[end:start]) if end < start else []
            ids.append(token_id)
            end = stop
        return ids + self._encode(whole[end:]) if end < len(whole) else ids

    def encode_array(self, text: str, *, allowed_special: Choice = (), disallowed_special: Choice = "all") -> Ids:
        """The ids of a text, shape (n,): uint16 when vocab_size is at most 65,536, else uint32. Errors as `encode`."""
        ids = self.encode(text, allowed_special=allowed_special, disallowed_special=disallowed_special)
        return np.array(ids, dtype=np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; what is not UTF-8 becomes U+FFFD.

        Raises:
            TokenizerError: for an id outside the vocabulary.
        """
        checked = list(map(index, ids))
        for position, token_id in enumerate(checked):
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(
                    f"the id {token_id} at position {position} is outside the vocabulary, whose ids are 0 to "
                    f"{self.vocab_size - 1}"
                )
        return self._decode(checked)


def needed(module: str) -> Any:
    """A library that one adapter needs, imported now.

    Raises:
        TokenizerError: when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise TokenizerError(f"{module} is not installed: pip install {module}") from None


def one_line(error: Exception) -> str:
    """A library's error on one line."""
    return " ".join(str(error).split())
