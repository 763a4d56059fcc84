"""Special tokens in a text: found by longest match, and encoded, refused or left as text, as the caller says."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from lm_tokenizer.errors import SpecialTokenError, TokenizerError

NAMES_OF_THE_END = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eos|>")
"""Special tokens that end a text, as vocabularies usually name them."""
Choice = Literal["all"] | Collection[str]
Found = tuple[int, int, int]
"""Start, end and id of a special token in a text."""


class SpecialTokens:
    """Finds the special tokens of one vocabulary in texts, `str` or UTF-8 `bytes`.

    The choice is tiktoken's: a token in `allowed` becomes its id, one in `disallowed` is an error, any other is text;
    "all" means every special token, for `disallowed` every one that is not allowed.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        self._all = frozenset(ids)
        self._expressions: dict[tuple[frozenset[str], bool], re.Pattern[Any]] = {}

    def find(self, text: Any, allowed: Choice = (), disallowed: Choice = "all") -> list[Found]:
        """The allowed special tokens in a text, from left to right; offsets in characters, or bytes of bytes.

        Raises:
            SpecialTokenError: at the first disallowed one.
            TokenizerError: for a choice that is not "all" or a collection of texts.
        """
        if not self.ids:
            return []
        allow, refuse = self._chosen(allowed), self._chosen(disallowed)
        refused = self._search(refuse - allow, text)
        if refused is not None:
            raise SpecialTokenError(_word(refused), refused.start())
        if self._search(allow, text) is None:
            return []
        matches = self._expression(allow, isinstance(text, str)).finditer(text)
        return [(match.start(), match.end(), self.ids[_word(match)]) for match in matches]

    def _search(self, tokens: frozenset[str], text: Any) -> "re.Match[Any] | None":
        """The first of some tokens in a text. A plain search is several times faster and nearly always enough."""
        if not tokens:
            return None
        if len(tokens) <= 8:
            is_text = isinstance(text, str)
            if not any((token if is_text else token.encode()) in text for token in tokens):
                return None
        return self._expression(tokens, isinstance(text, str)).search(text)

    def _chosen(self, choice: Choice) -> frozenset[str]:
        if choice == "all":
            return self._all
        if isinstance(choice, str):
            raise TokenizerError(f'a choice of special tokens is "all" or a collection of them, not {choice!r}')
        return self._all.intersection(choice) if choice else frozenset()

    def _expression(self, tokens: frozenset[str], is_text: bool) -> re.Pattern[Any]:
        key = (tokens, is_text)
        if key not in self._expressions:
            longest_first = sorted(tokens, key=lambda token: (-len(token), token))
            source = "|".join(map(re.escape, longest_first))
            self._expressions[key] = re.compile(source if is_text else source.encode())
        return self._expressions[key]


def _word(match: "re.Match[Any]") -> str:
    word = match.group()
    return word if isinstance(word, str) else bytes(word).decode()
