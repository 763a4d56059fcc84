"""GPT-2's two files: `vocab.json`, name -> id, and `merges.txt`, one merge a line in the order of their ranks.

They know neither the pattern nor which tokens are special. A token that is not a byte and that no merge makes is taken
for a special one, unless it could be an ordinary one: then the merges are cut short.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import naming, read_json, read_text, write_files
from lm_tokenizer.formats.printable import ALPHABET, checked_ids, merges_of, named, named_merges, tokens_of
from lm_tokenizer.pretokenize import splitter
from lm_tokenizer.vocab import Vocabulary, check_special_tokens, from_printable

_NO_SEPARATORS = bytes(byte for byte in range(256) if byte not in b" \n")


def read_gpt2(
    vocab_json: Path, merges_txt: Path, special_tokens: Sequence[str] = (), pattern: str = "gpt2"
) -> Vocabulary:
    """Read a vocabulary and its merges.

    Special are the tokens that are not bytes and that no merge makes, and `special_tokens`: of these, the ones that the
    vocabulary does not have get the ids after its last.

    Raises:
        TokenizerError: when a file is missing or malformed, when the two do not belong together, or when a token that
            no merge makes looks ordinary and is not among `special_tokens`.
    """
    special_tokens = check_special_tokens(special_tokens)
    ids = checked_ids(read_json(vocab_json), str(vocab_json))
    lefts, rights, first_line = _read_merges(merges_txt)
    merges, made = merges_of(ids, lefts, rights, lambda rank: f"{merges_txt}, line {first_line + rank}")
    special = {name: token_id for name, token_id in ids.items() if token_id not in made and name not in ALPHABET}
    _refuse_ordinary(special.keys() - set(special_tokens), vocab_json, merges_txt)
    next_id = max(ids.values()) + 1
    for text in special_tokens:
        if text not in special:
            special[text] = next_id
            next_id += 1
    with naming(vocab_json):
        return Vocabulary(tokens_of(ids, special), merges, special, pattern)


def read_folder(folder: Path) -> Vocabulary:
    """Read the two files of a folder, with what `transformers` may have written beside them.

    Raises:
        TokenizerError: as `read_gpt2`; also when the folder is of another tokenizer that has files of these names, or
            has tokens that the two files leave out.
    """
    settings, advice = folder / "tokenizer_config.json", "save it with transformers' fast tokenizer as tokenizer.json"
    if settings.exists():
        match read_json(settings):
            case {"tokenizer_class": str(kind)} if kind.removesuffix("Fast") != "GPT2Tokenizer":
                raise TokenizerError(f"{settings}: its tokenizer_class is {kind}, not GPT2Tokenizer: {advice}")
            case {"add_prefix_space": True}:
                raise TokenizerError(f"{settings}: it puts a space before every text (add_prefix_space): {advice}")
    if (folder / "added_tokens.json").exists():
        beside, ids = (read_json(folder / name) for name in ("added_tokens.json", "vocab.json"))
        if not isinstance(ids, dict) or any(ids.get(text) != beside[text] for text in beside):
            raise TokenizerError(f"{folder / 'added_tokens.json'}: it has tokens that vocab.json has not: {advice}")
    return read_gpt2(folder / "vocab.json", folder / "merges.txt")


def write_gpt2(vocabulary: Vocabulary, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` into a folder, which is made; neither file is ever seen half-written.

    Raises:
        TokenizerError: when the two files cannot hold the vocabulary, or cannot be written.
    """
    write_files(folder, contents(vocabulary))


def contents(vocabulary: Vocabulary) -> Mapping[str, bytes]:
    """The two files: name -> content.

    Raises:
        TokenizerError: when they cannot hold the vocabulary.
    """
    if lost := _lost(vocabulary):
        raise TokenizerError(
            f"GPT-2's files cannot hold {lost!r}, which is an ordinary text and found before texts are split: write "
            f"tokenizer.json alone"
        )
    ids = named(vocabulary)
    lines = [f"{left} {right}\n" for left, right in named_merges(vocabulary)]
    made = {line[:-1].replace(" ", "") for line in lines}
    stray = ids.keys() - made - ALPHABET - vocabulary.special_tokens.keys()
    if stray:
        raise TokenizerError(
            f"no merge makes the token {min(stray)!r}, so that GPT-2's files, which list no special tokens, would make "
            f"it one: write tokenizer.json alone"
        )
    return {
        "vocab.json": json.dumps(ids, ensure_ascii=False, separators=(",", ":")).encode(),
        "merges.txt": "".join(["#version: 0.2\n", *lines]).encode(),
    }


def can_hold(vocabulary: Vocabulary) -> bool:
    """Whether the two files can say which tokens are looked for in a text before it is split."""
    return _lost(vocabulary) is None


def _lost(vocabulary: Vocabulary) -> str | None:
    """The first added token, or special token that is an ordinary token too, which would be read back as another."""
    ordinary = vocabulary.id_of_bytes
    special = (text for text, i in vocabulary.special_tokens.items() if ordinary.get(vocabulary.tokens[i]) == i)
    return next(iter([*vocabulary.added_tokens, *special]), None)


def _read_merges(path: Path) -> tuple[list[str], list[str], int]:
    """The left and the right parts, and the line of the first."""
    text = read_text(path)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    first_line = 1
    if text.startswith("#version"):
        text, first_line = text.partition("\n")[2], 2
    text = text.rstrip("\n")
    if not text:
        return [], [], first_line
    separators = text.encode().translate(None, _NO_SEPARATORS)
    words = text.replace(" ", "\n").split("\n")
    if separators != b" \n" * (len(words) // 2 - 1) + b" " or "" in words:
        number, line = next((number, line) for number, line in enumerate(text.split("\n"), first_line)
                            if line.count(" ") != 1 or line[0] == " " or line[-1] == " ")  # fmt: skip
        raise TokenizerError(
            f"{path}, line {number}: a merge is two tokens with one space between them, not {_short(line)!r}; "
            f"was the file cut short?"
        )
    return words[::2], words[1::2], first_line


def _refuse_ordinary(names: Iterable[str], vocab_json: Path, merges_txt: Path) -> None:
    """A token that GPT-2's pattern leaves whole, as it does not `<|endoftext|>`, is one whose merge is missing."""
    split = splitter("gpt2")
    for name in sorted(names):
        try:
            text = from_printable(name).decode()
        except UnicodeDecodeError:  # part of a character
            text = "\ufffd"
        except TokenizerError:  # a text that no printable token can be
            continue
        if len(split(text)) == 1:
            raise TokenizerError(
                f"{merges_txt}: no merge makes the token {name!r} of {vocab_json.name}: the file is cut short or "
                f"belongs to another vocabulary; if it is a special token, pass special_tokens=[{name!r}]"
            )


def _short(line: str) -> str:
    return line if len(line) <= 40 else line[:40] + "..."
