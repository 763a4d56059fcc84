"""Errors of a tokenizer, in one line that says what, where and what to do."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class TokenizerError(ValueError):
    """A mistake in a text, a vocabulary, a file or an argument; the message is one line for a person to act on."""


class SpecialTokenError(TokenizerError):
    """A text holds a special token that the caller did not allow."""

    def __init__(self, token: str, position: int, unit: str = "character", text: int = 0, of_texts: int = 1) -> None:
        """A token at a position, in characters or bytes, of one of several texts."""
        self.token, self.position, self.text = token, position, text
        self._arguments = (token, position, unit, text, of_texts)
        which = f"text {text}: " if of_texts > 1 else ""
        super().__init__(
            f"{which}the text holds the special token {token!r} at {unit} {position}: "
            f"pass allowed_special={{{token!r}}} to encode it as one id, or disallowed_special=() to encode it as text"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return SpecialTokenError, self._arguments


def for_each(texts: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """Results of `work` for each text; an error about one of several names it."""
    done: list[R] = []
    try:
        for text in texts:
            done.append(work(text))  # noqa: PERF401  (the number of those done tells which has failed)
    except TokenizerError as error:
        if len(texts) > 1:
            error.args = (f"text {len(done)}: {error}",)
        raise
    return done
