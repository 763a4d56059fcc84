"""Shared parts of GPT-2's files and Hugging Face's: tokens by name, merges as pairs of names.

    {"!": 0, ..., "Ġthe": 262, ...}   ("Ġ", "t"), ...   <-->   tokens: id -> bytes, merges: rank -> (id, id)

A name is one printable character a byte (`vocab.printable`); that of a special token is its text.
"""

import codecs
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import add
from typing import Any

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.vocab import BYTE_ORDER, MAX_VOCAB_SIZE, Vocabulary, check_special_tokens, from_printable, printable

ALPHABET = frozenset(printable(bytes([byte])) for byte in BYTE_ORDER)
# Python encodes by such a table ten times as fast as by a dict, provided that byte 0 is NUL.
_CHARACTERS = "".join(printable(bytes([byte])) for byte in range(256))
_TABLE = codecs.charmap_build("\0" + _CHARACTERS[1:])


def checked_ids(value: Any, where: str) -> dict[str, int]:
    """Name -> id, as a JSON file has it.

    Raises:
        TokenizerError: when it is not an object, or an id is not an integer of its own from 0 on.
    """
    if not isinstance(value, dict) or not value:
        raise TokenizerError(f'{where}: this is not a vocabulary; it should be an object like {{"!": 0, "a": 1, ...}}')
    values = list(value.values())
    integers = set(map(type, values)) == {int}
    if integers and values == list(range(len(values))):
        return value
    if not integers or min(values) < 0 or max(values) >= MAX_VOCAB_SIZE:
        name, token_id = next((n, i) for n, i in value.items() if type(i) is not int or not 0 <= i < MAX_VOCAB_SIZE)
        raise TokenizerError(
            f"{where}: the id of {name!r} is {token_id!r:.40}; it must be from 0 to {MAX_VOCAB_SIZE - 1}"
        )
    if len(set(values)) < len(values):
        seen: dict[int, str] = {}
        name, token_id = next((n, i) for n, i in value.items() if seen.setdefault(i, n) != n)
        raise TokenizerError(f"{where}: {seen[token_id]!r} and {name!r} have the same id, {token_id}")
    return value


def merges_of(
    ids: Mapping[str, int], lefts: Sequence[str], rights: Sequence[str], where: Callable[[int], str]
) -> tuple[list[tuple[int, int]], set[int]]:
    """The merges by id, and the ids that they make. `where` names the place of a rank in the file.

    Raises:
        TokenizerError: when a part or a product is not in the vocabulary.
    """
    id_of = ids.__getitem__
    try:
        return list(zip(map(id_of, lefts), map(id_of, rights), strict=True)), set(map(id_of, map(add, lefts, rights)))
    except KeyError:
        pass
    rank, name = next((rank, name) for rank, (left, right) in enumerate(zip(lefts, rights, strict=True))
                      for name in (left, right, left + right) if name not in ids)  # fmt: skip
    raise TokenizerError(
        f"{where(rank)}: the merge of {lefts[rank]!r} and {rights[rank]!r} needs the token {name!r}, which the "
        f"vocabulary does not have: vocabulary and merges do not belong together"
    )


def tokens_of(ids: Mapping[str, int], special_tokens: Mapping[str, int]) -> list[bytes]:
    """Id -> bytes, `b""` for an id that none has; special tokens (and added ones) may be in `ids` or not.

    Raises:
        TokenizerError: when a name that is not a special token's holds a character that stands for no byte.
    """
    check_special_tokens(special_tokens)
    ordinary = dict(ids)
    for name, token_id in special_tokens.items():
        if ids.get(name) == token_id:
            del ordinary[name]
    tokens = [b""] * (max([*ids.values(), *special_tokens.values()], default=-1) + 1)
    joined = _bytes_of(ordinary)
    end = 0
    for name, token_id in ordinary.items():
        start, end = end, end + len(name)
        tokens[token_id] = joined[start:end]
    for name, token_id in special_tokens.items():
        tokens[token_id] = name.encode()
    return tokens


def _bytes_of(names: Collection[str]) -> bytes:
    """All names as bytes, joined: much faster at once than one by one."""
    joined = "".join(names)
    if "\0" not in joined:
        try:
            return codecs.charmap_encode(joined.replace(_CHARACTERS[0], "\0"), "strict", _TABLE)[0]
        except UnicodeEncodeError:
            pass
    for name in names:
        try:
            from_printable(name)
        except TokenizerError as error:
            raise TokenizerError(f"{error}; if it is a special token, name it as one") from None
    raise AssertionError("unreachable")


def named(vocabulary: Vocabulary) -> dict[str, int]:
    """Name -> id, in the order of the ids.

    Raises:
        TokenizerError: when a special token has the name of an ordinary one, so that the two cannot be distinguished.
    """
    special = {token_id: text for text, token_id in vocabulary.found_tokens.items()}
    ids: dict[str, int] = {}
    for token_id, token in enumerate(vocabulary.tokens):
        name = special[token_id] if token_id in special else printable(token)
        if token_id in special and vocabulary.id_of_bytes.get(token) == token_id and name != printable(token):
            raise TokenizerError(
                f"the special token {name!r} is an ordinary token too, which GPT-2's and Hugging Face's files name "
                f"{printable(token)!r}: choose another text for it"
            )
        if name in ids:
            raise TokenizerError(
                f"the special token {name!r} is the name of an ordinary token too, which GPT-2's and Hugging Face's "
                f"files cannot say: choose another text for it, such as {'<|' + name + '|>'!r}"
            )
        if name:
            ids[name] = token_id
    return ids


def named_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The merges as pairs of names."""
    names = [printable(token) for token in vocabulary.tokens]
    return [(names[left], names[right]) for left, right in vocabulary.merges]
