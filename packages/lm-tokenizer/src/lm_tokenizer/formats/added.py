"""The `added_tokens` of a `tokenizer.json`: texts that are found before the text is split, each one token.

    special: true   -> special tokens, which the caller of `encode` allows or not
    special: false  -> added tokens, which are found in every text

`tokenizers` looks for those that are not `normalized` first and for the others in what is left, takes the longest of
those that begin at one place, and gives ids by itself where a text is not in the vocabulary. What this package would do
otherwise is refused: texts that overlap across these groups, ids that are not the library's, flags that take in the
surroundings (lstrip, rstrip) or look at them (single_word).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.printable import ALPHABET
from lm_tokenizer.vocab import MAX_VOCAB_SIZE, from_printable

INSTEAD = "take it as it is with load_tokenizer('hf:...')"
_FLAGS = ("lstrip", "rstrip", "single_word")


@dataclass(frozen=True)
class Added:
    """One entry: its text, its id, and the group in which it is looked for."""

    text: str
    id: int
    special: bool
    normalized: bool


def read_added(value: Any, ids: Mapping[str, int], path: Path) -> list[Added]:
    """The entries of a file whose vocabulary is `ids`.

    Raises:
        TokenizerError: for one that is malformed, or that this package would not find as `tokenizers` does.
    """
    found: dict[str, Added] = {}
    next_id, taken = len(ids), set(ids.values())
    for entry in value if isinstance(value, list) else [value]:
        match entry:
            case {"id": int(token_id), "content": str(text), **options} if 0 <= token_id < MAX_VOCAB_SIZE:
                pass
            case _:
                raise TokenizerError(f"{path}: an added token is {entry!r:.60}; it should have an `id` and a `content`")
        for flag in _FLAGS:
            if options.get(flag):
                raise TokenizerError(f"{path}: its added token {text!r} has {flag}: {INSTEAD}")
        given = ids.get(text, next_id)
        if given != token_id or (text not in ids and token_id in taken):
            raise TokenizerError(
                f"{path}: its added token {text!r} has the id {token_id}, its vocabulary says otherwise (the library "
                f"gives it {given}): {INSTEAD}"
            )
        if text in found:
            raise TokenizerError(f"{path}: its added token {text!r} is listed twice")
        next_id = max(next_id, token_id + 1)
        special = bool(options.get("special", False))
        found[text] = Added(text, token_id, special, bool(options.get("normalized", not special)))
    _refuse_overlaps(found.values(), path)
    return list(found.values())


def refuse_other_bytes(added: Collection[Added], made: Collection[int], path: Path) -> None:
    """Refuse an added token that is an ordinary token too, one of `made` or a byte, whose name means other bytes.

    `é` is the name of the byte 0xE9, and an added token `é` is the text, of two bytes: the id would stand for both.
    """
    for token in added:
        if (token.id in made or token.text in ALPHABET) and from_printable(token.text) != token.text.encode():
            raise TokenizerError(
                f"{path}: its added token {token.text!r} has the id of the ordinary token of that name, which stands "
                f"for the bytes {from_printable(token.text)!r}: {INSTEAD}"
            )


def _refuse_overlaps(added: Collection[Added], path: Path) -> None:
    """Refuse texts of different groups of which one could hide a part of the other."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for token in added:
        groups.setdefault((token.special, token.normalized), []).append(token.text)
    for one, other in permutations(groups.values(), 2):
        whole, beginnings = set(other), {text[:i] for text in other for i in range(1, len(text))}
        for text in one:
            if any(text[i:] in beginnings for i in range(1, len(text))) or whole.intersection(_parts(text)):
                raise TokenizerError(
                    f"{path}: its added token {text!r} overlaps with one that differs in `special` or `normalized`, "
                    f"which decides which of them is found first: {INSTEAD}"
                )


def _parts(text: str) -> Iterator[str]:
    return (text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1))
