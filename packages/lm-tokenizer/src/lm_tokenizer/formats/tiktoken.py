"""tiktoken's ranks: one token a line, in base64, and its rank, which is its id as well.

The file has no merges: a token is made from the two that are left when its bytes are merged by lower ranks alone. It
has no pattern and no special tokens either: the name of a published encoding implies them, else they are given.
"""

import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import naming, read_bytes, write_whole
from lm_tokenizer.parts import parts_of_tokens
from lm_tokenizer.vocab import MAX_VOCAB_SIZE, Vocabulary, check_special_tokens, printable


class Encoding(NamedTuple):
    """Definition of a published encoding."""

    pattern: str
    ranks: int
    special_tokens: Mapping[str, int]


LLAMA_3 = "tokenizer.model"
"""The name of Llama 3's ranks, which is that of SentencePiece models too."""
_LLAMA_3_TOKENS = [
    "<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
]  # fmt: skip

# From tiktoken's openai_public.py, and from the tokenizer.py that Llama 3 was published with (Llama 3.1 has the same
# file and gives other names to some of the reserved tokens).
ENCODINGS: Mapping[str, Encoding] = {
    "r50k_base": Encoding("gpt2", 50256, {"<|endoftext|>": 50256}),
    "p50k_base": Encoding("gpt2", 50280, {"<|endoftext|>": 50256}),
    "cl100k_base": Encoding("cl100k", 100256, {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}),
    "o200k_base": Encoding("o200k", 199998, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    LLAMA_3: Encoding("llama3", 128000, {token: 128000 + i for i, token in enumerate(_LLAMA_3_TOKENS)}),
}  # fmt: skip


def read_tiktoken(path: Path, pattern: str = "gpt2", special_tokens: Mapping[str, int] | None = None) -> Vocabulary:
    """Read a file of ranks.

    Raises:
        TokenizerError: when it is missing or malformed, when a token cannot be made from tokens of lower ranks, or
            when a special token has the id of another token.
    """
    return _vocabulary(path, read_ranks(path), pattern, special_tokens or {})


def read_named(path: Path) -> Vocabulary:
    """Read a file of ranks with the pattern and the special tokens that its name implies; see `encoding_of`."""
    ranks = read_ranks(path)
    encoding = encoding_of(path, ranks)
    return _vocabulary(path, ranks, encoding.pattern, encoding.special_tokens)


def encoding_of(path: Path, ranks: Mapping[bytes, int]) -> Encoding:
    """The published encoding that a file is named after; of another name, GPT-2's pattern and no special token.

    Raises:
        TokenizerError: when the file has fewer or more ranks than the encoding of its name.
    """
    name = path.name if path.suffix == ".model" else path.stem
    if name not in ENCODINGS and path.suffix == ".model":
        raise TokenizerError(
            f"{path}: whose ranks these are is not known: name it {LLAMA_3} (Llama 3's), or *.tiktoken"
        )
    encoding = ENCODINGS.get(name, Encoding("gpt2", len(ranks), {}))
    if len(ranks) != encoding.ranks:
        named = "that of Llama 3" if name == LLAMA_3 else name
        raise TokenizerError(f"{path}: it has {len(ranks):,} ranks, {named} has {encoding.ranks:,}: "
                             f"was the file cut short? If it is another encoding, give it another name")  # fmt: skip
    return encoding


def _vocabulary(path: Path, ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int]) -> Vocabulary:
    check_special_tokens(special)
    tokens = [b""] * (max([*ranks.values(), *special.values()]) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token
    for text, token_id in special.items():
        if not 0 <= token_id < MAX_VOCAB_SIZE or tokens[token_id]:
            raise TokenizerError(f"{path}: the id {token_id} of the special token {text!r} is another token's")
        tokens[token_id] = text.encode()
    with naming(path):
        return Vocabulary(tokens, merges_from_ranks(ranks), special, pattern)


def write_tiktoken(vocabulary: Vocabulary, path: Path) -> None:
    """Write the ranks of all tokens but the special and the added ones, which are the reader's to name.

    Raises:
        TokenizerError: when the merges are not the ones that the ids imply, or the file cannot be written.
    """
    ranks = vocabulary.id_of_bytes
    if merges_from_ranks(ranks) != list(vocabulary.merges):
        raise TokenizerError(
            "the merges are not in the order of the ids of what they make, and tiktoken's ranks say both in one "
            "number: write another format"
        )
    write_whole(path, ranks_to_bytes(ranks))


def ranks_to_bytes(ranks: Mapping[bytes, int]) -> bytes:
    """Content of a file of ranks, the lowest rank first."""
    lines = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(binascii.b2a_base64(token, newline=False) + b" %d\n" % rank for token, rank in lines)


def is_ranks(path: Path) -> bool:
    """Whether a file begins as ranks do: a token in base64, a space, a number. A pipe is left alone: it may wait."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n", file.read(1 << 10)) is not None
    except OSError:
        return False


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank, as a file has them.

    Raises:
        TokenizerError: when it is missing or malformed, or a token or a rank is listed twice.
    """
    ranks: dict[bytes, int] = {}
    lines = read_bytes(path).splitlines()
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            encoded, written = line.split()
            token, rank = binascii.a2b_base64(encoded, strict_mode=True), int(written)
        except ValueError:
            raise TokenizerError(
                f"{path}, line {number}: a line is a token in base64, a space and its rank, not {line[:40]!r}; "
                f"was the file cut short?"
            ) from None
        if not token or token in ranks or not 0 <= rank < MAX_VOCAB_SIZE:
            raise TokenizerError(f"{path}, line {number}: the token {token!r} is empty, listed twice, or has a rank "
                                 f"that is not from 0 to {MAX_VOCAB_SIZE - 1}")  # fmt: skip
        ranks[token] = rank
    if not ranks:
        raise TokenizerError(f"{path}: the file is empty")
    if len(set(ranks.values())) < len(ranks):
        raise TokenizerError(f"{path}: two tokens have the same rank")
    return ranks


def merges_from_ranks(ranks: Mapping[bytes, int]) -> list[tuple[int, int]]:
    """The merges, in the order of their ranks, of a vocabulary in which the rank of a merge is the id of its token.

    Raises:
        TokenizerError: for a token that merging its bytes by lower ranks does not bring down to two parts.
    """
    tokens = sorted(ranks, key=lambda token: (len(token) > 1, ranks[token]))
    n_bytes = sum(len(token) == 1 for token in tokens)
    parts = parts_of_tokens(tokens, n_bytes)
    if n_bytes + len(parts) < len(tokens):
        token = tokens[n_bytes + len(parts)]
        shown = " + ".join(map(printable, _parts(token, ranks, ranks[token])))
        raise TokenizerError(
            f"the token {printable(token)!r} of rank {ranks[token]} cannot be made: tokens of lower ranks give {shown}"
        )
    rank_of = [ranks[token] for token in tokens]
    return [(rank_of[left], rank_of[right]) for left, right in parts]


def _parts(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """The bytes of a token merged by ranks below `limit`, the lowest and leftmost first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, at = limit, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, at = rank, i
        if at < 0:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
