"""Options of training; checked when they are made, before anything is read or compiled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats import check_pattern
from lm_tokenizer.formats.printable import ALPHABET
from lm_tokenizer.reference import TieBreak
from lm_tokenizer.vocab import MAX_VOCAB_SIZE, check_special_tokens


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training; `reference.train` defines those that decide the merges.

    Attributes:
        vocab_size: the most tokens there may be, special tokens and the 256 bytes among them.
        special_tokens: cut the documents, are never counted, and get the last ids (or the first).
        pattern: a name of `pretokenize.PATTERNS`, or a regular expression.
        special_tokens_first: whether special tokens get the first ids.
        min_frequency: a pair that occurs less often is not merged.
        max_token_length: in bytes; tokens of this length or longer are not made, but for pairs of bytes.
        tie_break: which of equally frequent pairs is merged first; see `reference.train`.

    Raises:
        TokenizerError: for an option that is not possible.
    """

    vocab_size: int
    special_tokens: Sequence[str] = ()
    pattern: str = "gpt2"
    special_tokens_first: bool = False
    min_frequency: int = 0
    max_token_length: int | None = None
    tie_break: TieBreak = "huggingface"

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_tokens", tuple(check_special_tokens(self.special_tokens)))
        check_pattern(self.pattern)
        for token in self.special_tokens:
            if token in ALPHABET:
                raise TokenizerError(
                    f"the special token {token!r} is the name of a byte in GPT-2's files: use a longer one"
                )
        special = len(self.special_tokens)
        if not 256 + special <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise TokenizerError(
                f"vocab_size {self.vocab_size}: must be from {256 + special} (256 bytes and {special} special tokens) "
                f"to {MAX_VOCAB_SIZE}"
            )
        if self.min_frequency < 0:
            raise TokenizerError(f"min_frequency {self.min_frequency}: must be 0 or more")
        if self.max_token_length is not None and self.max_token_length < 2:
            raise TokenizerError(f"max_token_length {self.max_token_length}: must be 2 or more")
        if self.tie_break not in get_args(TieBreak):
            raise TokenizerError(f"tie_break {self.tie_break!r}: must be {' or '.join(get_args(TieBreak))}")
