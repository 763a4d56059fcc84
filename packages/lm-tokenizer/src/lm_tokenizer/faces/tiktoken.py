"""The face of `tiktoken.Encoding`: its methods, what they return and what they raise.

Left out is what tiktoken itself calls unstable (`encode_with_unstable`) or private.
"""

import re
from collections.abc import Collection, Sequence, Set
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from lm_tokenizer.errors import SpecialTokenError
from lm_tokenizer.pretokenize import expression_of
from lm_tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

Allowed = Literal["all"] | Set[str]
Disallowed = Literal["all"] | Collection[str]


class TiktokenFace:
    """A tokenizer that code for tiktoken takes. Immutable; may be shared by threads and pickled.

    As there, lone surrogates become U+FFFD, a disallowed special token is a ValueError, an unknown token a KeyError,
    and texts of `disallowed_special` need not be special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, name: str = "lm_tokenizer") -> None:
        self.name = name
        self._tokenizer = tokenizer
        self._special_tokens = tokenizer.special_tokens

    def __repr__(self) -> str:
        return f"<Encoding {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return TiktokenFace, (self._tokenizer, self.name)

    # Encoding

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text, in which nothing is special."""
        return self._tokenizer.encode(text, disallowed_special=(), errors="replace")

    def encode(
        self, text: str, *, allowed_special: Allowed = frozenset(), disallowed_special: Disallowed = "all"
    ) -> list[int]:
        """The ids of a text.

        Raises:
            ValueError: when the text holds one of `disallowed_special`; "all" are those that are not allowed.
        """
        allowed = self._checked(text, allowed_special, disallowed_special)
        return self._tokenizer.encode(text, allowed_special=allowed, disallowed_special=(), errors="replace")

    def encode_to_numpy(
        self, text: str, *, allowed_special: Allowed = frozenset(), disallowed_special: Disallowed = "all"
    ) -> "np.ndarray":
        """Ids as of `encode`, uint32 (n,)."""
        allowed = self._checked(text, allowed_special, disallowed_special)
        options: Any = {"allowed_special": allowed, "disallowed_special": (), "errors": "replace"}
        return self._tokenizer.encode_array(text, **options).astype("uint32")

    def encode_ordinary_batch(self, text: list[str], *, num_threads: int = 8) -> list[list[int]]:
        """`encode_ordinary` for each text."""
        found = self._tokenizer.encode_batch(text, num_threads, disallowed_special=(), errors="replace")
        return [ids.tolist() for ids in found]

    def encode_batch(
        self,
        text: list[str],
        *,
        num_threads: int = 8,
        allowed_special: Allowed = frozenset(),
        disallowed_special: Disallowed = "all",
    ) -> list[list[int]]:
        """`encode` for each text."""
        allowed: Allowed = frozenset()
        for each in text:
            allowed = self._checked(each, allowed_special, disallowed_special)
        options: Any = {"allowed_special": allowed, "disallowed_special": (), "errors": "replace"}
        return [ids.tolist() for ids in self._tokenizer.encode_batch(text, num_threads, **options)]

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """The id of a token, special or not.

        Raises:
            KeyError: when there is no such token.
        """
        token = text_or_bytes.encode() if isinstance(text_or_bytes, str) else text_or_bytes
        token_id = self._tokenizer.vocabulary.id_of_bytes.get(token)
        return self._ids_of_special[token] if token_id is None else token_id

    def _checked(self, text: str, allowed: Allowed, disallowed: Disallowed) -> Set[str]:
        """The special tokens that are allowed, when none that is disallowed is in the text."""
        allowed = self.special_tokens_set if allowed == "all" else allowed
        refused = self.special_tokens_set - allowed if disallowed == "all" else disallowed
        if refused and (match := _expression(frozenset(refused)).search(text)):
            raise SpecialTokenError(match.group(), match.start())
        return allowed

    # Decoding

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids.

        Raises:
            KeyError: for an id that is not a token.
        """
        try:
            return self._tokenizer.decode_bytes(tokens)
        except ValueError as error:
            raise KeyError(str(error)) from None

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """The text of ids; `errors` as in `bytes.decode`. Raises as `decode_bytes`."""
        return self.decode_bytes(tokens).decode("utf-8", errors=errors)

    def decode_single_token_bytes(self, token: int) -> bytes:
        """The bytes of one id. Raises as `decode_bytes`."""
        return self.decode_bytes([token])

    def decode_tokens_bytes(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each id. Raises as `decode_bytes`."""
        return [self.decode_single_token_bytes(token) for token in tokens]

    def decode_with_offsets(self, tokens: Sequence[int]) -> tuple[str, list[int]]:
        """The text, and for each id the index of the first character that has bytes of it.

        Raises:
            KeyError, UnicodeDecodeError: for an id that is not a token, and for bytes that are not UTF-8.
        """
        parts, offsets, length = self.decode_tokens_bytes(tokens), list[int](), 0
        for part in parts:
            offsets.append(max(0, length - (0x80 <= part[0] < 0xC0)))
            length += sum(not 0x80 <= byte < 0xC0 for byte in part)
        return b"".join(parts).decode(), offsets

    def decode_batch(
        self, batch: Sequence[Sequence[int]], *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """`decode` for each of a batch."""
        return [self.decode(tokens, errors) for tokens in batch]

    def decode_bytes_batch(self, batch: Sequence[Sequence[int]], *, num_threads: int = 8) -> list[bytes]:
        """`decode_bytes` for each of a batch."""
        return [self.decode_bytes(tokens) for tokens in batch]

    # What it knows

    def token_byte_values(self) -> list[bytes]:
        """The bytes of all tokens but the special ones, in their order."""
        return sorted(self._tokenizer.vocabulary.id_of_bytes)

    @property
    def eot_token(self) -> int:
        """The id of `<|endoftext|>`. Raises KeyError when there is none."""
        return self._special_tokens["<|endoftext|>"]

    @cached_property
    def special_tokens_set(self) -> set[str]:
        """The special tokens."""
        return set(self._special_tokens)

    def is_special_token(self, token: int) -> bool:
        """Whether an id is a special token's."""
        return token in self._ids_of_special.values()

    @property
    def max_token_value(self) -> int:
        """The largest id."""
        return self._tokenizer.vocab_size - 1

    @property
    def n_vocab(self) -> int:
        """One more than the largest id."""
        return self._tokenizer.vocab_size

    # Read by code that makes an encoding with more special tokens of another.

    @property
    def _mergeable_ranks(self) -> dict[bytes, int]:
        return dict(self._tokenizer.vocabulary.id_of_bytes)

    @property
    def _pat_str(self) -> str:
        return expression_of(self._tokenizer.vocabulary.pattern)

    @cached_property
    def _ids_of_special(self) -> dict[bytes, int]:
        return {text.encode(): token_id for text, token_id in self._special_tokens.items()}


@lru_cache(maxsize=128)
def _expression(tokens: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda token: (-len(token), token)))))
