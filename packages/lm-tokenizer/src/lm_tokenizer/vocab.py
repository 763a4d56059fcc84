"""The vocabulary: what a byte-level BPE knows, and nothing of how it is used.

    tokens   id -> bytes      merges   rank -> (left id, right id)      special tokens   text -> id      pattern

Every merge makes the token that is its two parts joined; the lower its rank, the earlier it is applied.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pretokenize import expression_of
from lm_tokenizer.surrogates import joined

MAX_VOCAB_SIZE = 1 << 21  # the kernels pack two ids and a rank into 64 bits
MAX_MERGES = (1 << 22) - 1

# GPT-2 writes a byte as a printable character: itself where it is one, else the next free one from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes([*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)])
"""The 256 bytes in the order of GPT-2's ids and of Hugging Face's alphabet."""
_CHARACTERS = "".join(map(chr, _PRINTABLE)) + "".join(map(chr, range(0x100, 0x100 + 256 - len(_PRINTABLE))))
_CHARACTER_OF_BYTE = dict(zip(BYTE_ORDER, _CHARACTERS, strict=True))
_BYTE_OF_CHARACTER = {ord(character): byte for byte, character in _CHARACTER_OF_BYTE.items()}


def printable(token: bytes) -> str:
    """A token as GPT-2's files write it: one printable character a byte (`Ġ` is a space)."""
    return token.decode("latin-1").translate(_CHARACTER_OF_BYTE)


def from_printable(text: str) -> bytes:
    """The bytes of a token written by `printable`.

    Raises:
        TokenizerError: when the text holds a character that stands for no byte.
    """
    try:
        return bytes(map(_BYTE_OF_CHARACTER.__getitem__, map(ord, text)))
    except KeyError as error:
        raise TokenizerError(f"the token {text!r} holds {chr(error.args[0])!r}, which stands for no byte") from None


@dataclass(frozen=True)
class Vocabulary:
    """Tokens, merges, special tokens and pattern of one byte-level BPE. Checked when made; immutable.

    Attributes:
        tokens: id -> bytes; for a special or added token the UTF-8 of its text, for an id that is not used `b""`.
        merges: rank -> (left id, right id).
        special_tokens: text -> id, in the order of their ids. Its id may be that of an ordinary token of these bytes.
        pattern: a name of `pretokenize.PATTERNS`, or a regular expression.
        added_tokens: text -> id, likewise, of tokens that are ordinary text and are found in it as special tokens are,
            whatever the choice of special tokens: the runs of spaces of models of code.

    Raises:
        TokenizerError: when tokens, merges and special tokens do not belong together.
    """

    tokens: Sequence[bytes]
    merges: Sequence[tuple[int, int]]
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    pattern: str = "gpt2"
    added_tokens: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "merges", tuple(self.merges))
        for name in ("special_tokens", "added_tokens"):
            given = getattr(self, name)
            checked = dict(zip(check_special_tokens(given), given.values(), strict=True))
            ordered = dict(sorted(checked.items(), key=lambda item: item[1]))
            object.__setattr__(self, name, MappingProxyType(ordered))
        expression_of(self.pattern)
        self._check_special_tokens()
        self._check_tokens()

    def __reduce__(self) -> tuple[object, ...]:
        return Vocabulary, (self.tokens, self.merges, dict(self.special_tokens), self.pattern, dict(self.added_tokens))

    @cached_property
    def found_tokens(self) -> Mapping[str, int]:
        """Text -> id of the special and the added tokens: what is looked for in a text before it is split."""
        return MappingProxyType({**self.special_tokens, **self.added_tokens})

    def _check_special_tokens(self) -> None:
        number = len(self.special_tokens) + len(self.added_tokens)
        if len(self.found_tokens) < number or len(set(self.found_tokens.values())) < number:
            raise TokenizerError("two special or added tokens have the same text or the same id")
        for text, token_id in self.found_tokens.items():
            if not 0 <= token_id < len(self.tokens) or self.tokens[token_id] != text.encode():
                raise TokenizerError(f"the special token {text!r} has the id {token_id}, which is not its own")

    def _check_tokens(self) -> None:
        if len(self.tokens) > MAX_VOCAB_SIZE:
            raise TokenizerError(f"the vocabulary has {len(self.tokens):,} tokens; the limit is {MAX_VOCAB_SIZE:,}")
        if len(self.merges) > MAX_MERGES:
            raise TokenizerError(f"the vocabulary has {len(self.merges):,} merges; the limit is {MAX_MERGES:,}")
        missing = [byte for byte in range(256) if bytes([byte]) not in self.id_of_bytes]
        if missing:
            raise TokenizerError(
                f"the vocabulary is not byte-level: it has no token for {len(missing)} of the 256 bytes, "
                f"the first is 0x{missing[0]:02x}"
            )
        if not self.tokens[-1]:
            raise TokenizerError("the last id of the vocabulary is not used: leave it out")
        special = set(self.found_tokens.values())
        both = sum(self.id_of_bytes.get(self.tokens[i]) == i for i in special)
        used = len(self.tokens) - self.tokens.count(b"") - len(special) + both
        if used > len(self.id_of_bytes):
            twice = next(token for i, token in enumerate(self.tokens)
                         if token and i not in special and self.id_of_bytes[token] != i)  # fmt: skip
            raise TokenizerError(f"the token {twice!r} is in the vocabulary twice")
        self.merged_ids  # noqa: B018  (made here, so that merges without a token are found here)

    @cached_property
    def id_of_bytes(self) -> Mapping[bytes, int]:
        """Ordinary token -> id; a special or added token is not in it, unless it is a byte or a merge makes it."""
        tokens = list(self.tokens)
        for token_id in self.found_tokens.values():
            tokens[token_id] = b""
        ids = dict(zip(reversed(tokens), range(len(tokens) - 1, -1, -1), strict=True))
        ids.pop(b"", None)
        for text, token_id in sorted(self.found_tokens.items(), key=lambda item: len(item[0].encode())):
            token = text.encode()
            if token not in ids and (len(token) == 1 or self._is_made(token, ids)):
                ids[token] = token_id
        return ids

    def _is_made(self, token: bytes, ids: Mapping[bytes, int]) -> bool:
        """Whether a merge makes a token of others in `ids`."""
        parts = ((ids.get(token[:i]), ids.get(token[i:])) for i in range(1, len(token)))
        return any(pair in self.ranks for pair in parts)

    @cached_property
    def id_of_byte(self) -> Sequence[int]:
        """Byte -> id."""
        return [self.id_of_bytes[bytes([byte])] for byte in range(256)]

    @cached_property
    def merged_ids(self) -> Sequence[int]:
        """Rank -> the id of the token that the merge makes."""
        tokens, id_of = self.tokens, self.id_of_bytes
        try:
            merged = [id_of[tokens[left] + tokens[right]] for left, right in self.merges]
            if b"" not in tokens or all(tokens[left] and tokens[right] for left, right in self.merges):
                return merged
        except (KeyError, IndexError):
            pass
        for rank, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
                raise TokenizerError(f"merge {rank} names an id outside the vocabulary: {(left, right)}")
            if not tokens[left] or not tokens[right]:
                raise TokenizerError(f"merge {rank} names an id that is not used: {(left, right)}")
            if tokens[left] + tokens[right] not in id_of:
                raise TokenizerError(
                    f"vocabulary and merges do not belong together: merge {rank} joins {printable(tokens[left])!r} and "
                    f"{printable(tokens[right])!r}, and the vocabulary has no such token"
                )
        raise AssertionError("unreachable")

    @cached_property
    def ranks(self) -> Mapping[tuple[int, int], int]:
        """(left id, right id) -> rank; of a pair that is listed twice, the first."""
        return dict(zip(reversed(self.merges), range(len(self.merges) - 1, -1, -1), strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over tokens, merges, special tokens and pattern."""
        import hashlib  # here: a prompt does not need it

        digest = hashlib.sha256(b"byte-level BPE\0")
        digest.update(expression_of(self.pattern).encode() + b"\0")
        for token in self.tokens:
            digest.update(len(token).to_bytes(4, "little") + token)
        digest.update(repr(list(self.merges)).encode() + repr(sorted(self.special_tokens.values())).encode())
        if self.added_tokens:
            digest.update(b"added" + repr(sorted(self.added_tokens.values())).encode())
        return digest.hexdigest()


def check_special_tokens(special_tokens: Iterable[str]) -> list[str]:
    """The special tokens with surrogate pairs joined; refuses those that text or another one may be taken for.

    Raises:
        TokenizerError: for one that is empty, listed twice, or not Unicode text.
    """
    seen: dict[str, None] = {}
    for given in special_tokens:
        if not isinstance(given, str) or not given:
            raise TokenizerError(f"a special token must be a text of one character or more, not {given!r}")
        text = joined(given)
        if text in seen:
            raise TokenizerError(f"the special token {text!r} is listed twice")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise TokenizerError(f"the special token {text!r} holds a lone surrogate, which no text can hold")
        seen[text] = None
    return list(seen)


def with_special_tokens(
    tokens: Sequence[bytes], merges: Sequence[tuple[int, int]], special_tokens: Iterable[str], pattern: str
) -> Vocabulary:
    """A vocabulary in which each of `special_tokens` keeps the id it has in `tokens`, or gets the next one behind."""
    special_tokens = check_special_tokens(special_tokens)
    made = {tokens[left] + tokens[right] for left, right in merges}
    ids = {token: i for i, token in enumerate(tokens) if token and len(token) > 1 and token not in made}
    tokens, special = list(tokens), {}
    for text in special_tokens:
        token_id = ids.get(text.encode())
        if token_id is None:
            token_id = len(tokens)
            tokens.append(text.encode())
        special[text] = token_id
    return Vocabulary(tokens, merges, special, pattern)
