"""Special tokens in a text: found by longest match, and encoded, refused or left as text, as the caller says."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from lm_tokenizer.errors import SpecialTokenError, TokenizerError
from lm_tokenizer.surrogates import joined, place_in

NAMES_OF_THE_END = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eos|>")
"""Special tokens that end a text, as vocabularies usually name them."""
Choice = Literal["all"] | Collection[str]
MOST_PLAIN = 8
"""Tokens that are searched for one by one."""
Found = tuple[int, int, int]
"""Start, end and id of a special token in a text."""


class SpecialTokens:
    """Finds the special tokens of one vocabulary in texts, `str` or UTF-8 `bytes`.

    The choice is tiktoken's: a token in `allowed` becomes its id, one in `disallowed` is an error, any other is text;
    "all" means every special token, for `disallowed` every one that is not allowed.
    """

    def __init__(self, ids: Mapping[str, int], added: Mapping[str, int] | None = None) -> None:
        """Find special tokens, and those of `added` as if they were always allowed."""
        self._always = frozenset(added or ())
        self.ids = {**ids, **(added or {})}
        self._all = frozenset(ids)
        self._expressions: dict[tuple[frozenset[str], bool], re.Pattern[Any]] = {}

    def any_in(self, text: str) -> bool:
        """Whether a text holds any special token."""
        for token in self.ids:  # noqa: SIM110  (a generator takes twice as long for a prompt)
            if token in text:
                return True
        return False

    def find(self, text: Any, allowed: Choice = (), disallowed: Choice = "all") -> list[Found]:
        """The allowed special tokens in a text, from left to right; offsets in characters, or bytes of bytes.

        Raises:
            SpecialTokenError: at the first disallowed one.
            TokenizerError: for a choice that is not "all" or a collection of texts.
        """
        return self.find_in_all([text], allowed, disallowed)[0]

    def find_in(self, given: str, text: str, allowed: Choice, disallowed: Choice) -> list[Found]:
        """`find` in a text that is `given` with its surrogate pairs joined; an error names the place in `given`."""
        try:
            return self.find(text, allowed, disallowed)
        except SpecialTokenError as error:
            if given is text:
                raise
            raise SpecialTokenError(error.token, place_in(given, error.position)) from None

    def find_in_all(self, texts: Sequence[Any], allowed: Choice = (), disallowed: Choice = "all") -> list[list[Found]]:
        """`find` for each of several texts, all `str` or all `bytes`."""
        if not self.ids or not texts:
            return [[] for _ in texts]
        allow, refuse = self._chosen(allowed) | self._always, self._chosen(disallowed)
        is_text = isinstance(texts[0], str)
        refused, wanted = self._finder(refuse - allow, is_text), self._finder(allow, is_text)
        if len(texts) > 1:  # one look at all of them is quicker than one at each
            joined = ("" if is_text else b"").join(texts)
            refused = refused if refused is not None and refused(joined) else None
            wanted = wanted if wanted is not None and wanted(joined) else None
        if refused is None and wanted is None:
            return [[] for _ in texts]
        found: list[list[Found]] = []
        for i, text in enumerate(texts):
            if refused is not None and (match := refused(text)):
                raise SpecialTokenError(_word(match), match.start(), "character" if is_text else "byte", i, len(texts))
            if wanted is None or not wanted(text):
                found.append([])
                continue
            matches = self._expression(allow, is_text).finditer(text)
            found.append([(match.start(), match.end(), self.ids[_word(match)]) for match in matches])
        return found

    def _finder(self, tokens: frozenset[str], is_text: bool) -> "Callable[[Any], re.Match[Any] | None] | None":
        """A function that gives the first of some tokens in a text, None for no tokens.

        A plain search is several times faster than an expression, and nearly always enough.
        """
        if not tokens:
            return None
        search = self._expression(tokens, is_text).search
        if len(tokens) > MOST_PLAIN:
            return search
        words = [token if is_text else token.encode() for token in tokens]

        def find(text: Any) -> "re.Match[Any] | None":
            for word in words:
                if word in text:
                    return search(text)
            return None

        return find

    def _chosen(self, choice: Choice) -> frozenset[str]:
        if choice == "all":
            return self._all
        if isinstance(choice, str):
            raise TokenizerError(f'a choice of special tokens is "all" or a collection of them, not {choice!r}')
        return self._all.intersection(map(joined, choice)) if choice else frozenset()

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
