r"""Hugging Face's `tokenizer.json`, as far as it holds a byte-level BPE.

    model {vocab, merges}   pre_tokenizer -> pattern   added_tokens -> special and added tokens   decoder ByteLevel

What would give other ids than `tokenizers` gives is refused in one line: a normalizer, dropout, a prefix space, another
kind of model, and of the added tokens what added.py says. What does not change the ids of a text is left out: the
post-processor (it adds tokens around a text), truncation and padding.

Split expressions are run by Oniguruma there and, where they are not a published pattern, by `regex` here. What the two
read differently is refused: `{n,m}+` repeats there and is possessive here, `^` and `$` are the ends of a line there,
`\w` leaves out joiners there. What stays different are characters that are newer than Unicode 16.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_tokenizer import reference
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.added import INSTEAD, read_added, refuse_other_bytes
from lm_tokenizer.formats.files import naming, read_json, write_whole
from lm_tokenizer.formats.printable import checked_ids, merges_of, named, named_merges, tokens_of
from lm_tokenizer.pretokenize import PATTERNS, expression_of, name_of
from lm_tokenizer.vocab import Vocabulary

# The published patterns in a form that Oniguruma reads as they are meant.
_WRITTEN = {name: expression.replace("{1,3}+", "{1,3}") for name, expression in PATTERNS.items()}
# Other spellings of the same pretokens. tokenizers' ByteLevel; GPT-2's encoder.py; tiktoken's r50k_base.
_GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
)
_NAME_OF = {expression: name for name, expression in _WRITTEN.items()} | dict.fromkeys(_GPT2, "gpt2")

# Escapes and classes that both engines read alike are skipped whole; in the rest, what they read differently is found.
_READ_DIFFERENTLY = r"""
        \\[pPxu]\{\w*\} | \\[^wWbBhHRXZGKkgyYoON]
      | \[\^?\]?(?: \\[^wWhHRX] | \[:\^?\w+:\] | &(?!&) | [^\]\\&\[] )*\]
      | (?P<found> \\. | \{\d*,?\d*\}\+ | \{\d+\}\? | [\[^$] | \(\?[a-zA-Z]*[ms] )
"""


def read_huggingface(path: Path) -> Vocabulary:
    """Read a `tokenizer.json`.

    Raises:
        TokenizerError: when it is missing or malformed, or describes what this package would encode differently.
    """
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise TokenizerError(f"{path}: this is not a tokenizer.json, which is an object with a `model`")
    model, where = document["model"], f"{path}, model"
    _refuse(path, document)
    pattern = _pattern_of(document.get("pre_tokenizer"), path)
    ids = checked_ids(model.get("vocab"), f"{where}.vocab")
    found = read_added(document.get("added_tokens") or [], ids, path)
    lefts, rights = _parts(model.get("merges"), f"{where}.merges")
    merges, made = merges_of(ids, lefts, rights, lambda rank: f"{where}.merges[{rank}]")
    refuse_other_bytes(found, made, path)
    special = {token.text: token.id for token in found if token.special}
    added = {token.text: token.id for token in found if not token.special}
    with naming(path):
        vocabulary = Vocabulary(tokens_of(ids, special | added), merges, special, pattern, added)
    if model.get("ignore_merges"):
        _refuse_unreachable(vocabulary, path)
    return vocabulary


def write_huggingface(vocabulary: Vocabulary, path: Path) -> None:
    """Write a `tokenizer.json` that `tokenizers` and `transformers` load, and that gives the same ids there.

    Raises:
        TokenizerError: when the format cannot hold the vocabulary, or the file cannot be written; see `contents`.
    """
    write_whole(path, contents(vocabulary))


def contents(vocabulary: Vocabulary) -> bytes:
    """Content of `tokenizer.json`.

    Raises:
        TokenizerError: when a special token has the name of an ordinary one, or a custom pattern has what Hugging
            Face's engine reads differently.
    """
    added = [
        {"id": token_id, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": text in vocabulary.special_tokens} for text, token_id in vocabulary.found_tokens.items()
    ]  # fmt: skip
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(vocabulary.pattern),
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": named(vocabulary),
            "merges": named_merges(vocabulary),
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def unportable(expression: str) -> str | None:
    """The first part of an expression that Hugging Face's engine and `regex` read differently, or None."""
    matches = re.finditer(_READ_DIFFERENTLY, expression, re.VERBOSE | re.DOTALL)  # compiled for those who need it
    return next((match["found"] for match in matches if match["found"]), None)


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot be written, for a trainer to know before it has worked for an hour.

    Raises:
        TokenizerError: for an expression that is not valid, or that Hugging Face's engine reads differently.
    """
    expression = expression_of(pattern)
    if name_of(pattern) is None and (part := unportable(expression)):
        raise TokenizerError(f"the pattern {pattern!r} cannot be written: {_reason(part)}")


# Patterns


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    name = name_of(pattern)
    if name == "gpt2":
        return _byte_level(use_regex=True)
    check_pattern(pattern)
    expression = _WRITTEN[name] if name else pattern
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _reason(part: str) -> str:
    if part == "[":
        part = r"[...] with [, &&, \w or \h in it"
    return f"Hugging Face's engine reads {part!r} as another thing than this package does"


def _pattern_of(value: Any, path: Path) -> str:
    """The pattern of a `pre_tokenizer`."""
    steps = value.get("pretokenizers") if isinstance(value, dict) and value.get("type") == "Sequence" else [value]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        steps = []
    kinds = [step.get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise TokenizerError(
            f"{path}: its pre_tokenizer is {' + '.join(map(str, kinds)) or 'none'}; this package reads ByteLevel, or "
            f"Split followed by ByteLevel: {INSTEAD}"
        )
    byte_level = steps[-1]
    if byte_level.get("add_prefix_space", True):
        raise TokenizerError(f"{path}: it puts a space before every text (add_prefix_space): {INSTEAD}")
    if len(steps) == 1:
        if byte_level.get("use_regex", True):
            return "gpt2"
        raise TokenizerError(f"{path}: its pre_tokenizer leaves every text whole (use_regex is false): {INSTEAD}")
    if byte_level.get("use_regex", True):
        raise TokenizerError(f"{path}: its pre_tokenizer cuts texts twice, by Split and by ByteLevel: {INSTEAD}")
    return _split_pattern(steps[0], path)


def _split_pattern(step: Mapping[str, Any], path: Path) -> str:
    match step.get("pattern"):
        case {"Regex": str(expression)}:
            pass
        case other:
            raise TokenizerError(f"{path}: its Split is by {other!r:.60}, not by a regular expression: {INSTEAD}")
    name = _NAME_OF.get(expression)
    how = (str(step.get("behavior")).lower(), bool(step.get("invert")))
    # What matches is a pretoken; a published pattern leaves nothing out, so that what does not match may be dropped.
    if how != ("isolated", False) and not (name and how == ("removed", True)):
        raise TokenizerError(f"{path}: its Split has the behavior {how[0]!r} and invert={how[1]}: {INSTEAD}")
    if name:
        return name
    if part := unportable(expression):
        raise TokenizerError(f"{path}: its Split is by {expression!r}: {_reason(part)}: {INSTEAD}")
    return expression


# What is refused


def _refuse(path: Path, document: Mapping[str, Any]) -> None:
    model, decoder = document["model"], document.get("decoder")
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"{path}: its model is {model['type']}, not a byte-level BPE: {INSTEAD}")
    normalizer = document.get("normalizer")
    if normalizer and normalizer != {"type": "Sequence", "normalizers": []}:
        kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
        raise TokenizerError(f"{path}: it normalizes texts ({kind}), so that they could not be decoded: {INSTEAD}")
    # An unknown token is harmless: no byte is unknown to a vocabulary that has all 256.
    for option in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise TokenizerError(f"{path}: its model has {option}={model[option]!r}: {INSTEAD}")
    if decoder and (not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel"):
        raise TokenizerError(f"{path}: its decoder is not ByteLevel: {INSTEAD}")


def _refuse_unreachable(vocabulary: Vocabulary, path: Path) -> None:
    """With ignore_merges a pretoken that is a token is that token; refuse where the merges say otherwise."""
    for token, token_id in vocabulary.id_of_bytes.items():
        if len(token) > 1 and reference.encode_pretoken(token, vocabulary) != [token_id]:
            raise TokenizerError(f"{path}: it has ignore_merges, and its merges do not make {token!r}: {INSTEAD}")


def _parts(merges: Any, where: str) -> tuple[list[str], list[str]]:
    """Left and right parts; `tokenizers` wrote "a b" before version 0.20 and writes ["a", "b"] since."""
    if not isinstance(merges, list):
        raise TokenizerError(f"{where}: there is no list of merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}:
        lefts, rights = [left for left, _ in pairs], [right for _, right in pairs]
        if set(map(type, lefts)) | set(map(type, rights)) <= {str}:
            return lefts, rights
    for rank, merge in enumerate(pairs):
        if not isinstance(merge, list) or len(merge) != 2 or set(map(type, merge)) != {str}:
            raise TokenizerError(f"{where}[{rank}]: a merge is two tokens, not {merge!r:.60}")
    raise AssertionError("unreachable")
