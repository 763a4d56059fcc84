"""GPT-2's vocabulary in every format that a library reads: `vocab.json` and `merges.txt` -> all others."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.errors import UserError

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's split."""
_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = [*_SHOWN, *(byte for byte in range(256) if byte not in _SHOWN)]
_BYTE_OF = {chr(byte if i < len(_SHOWN) else 0x100 + i - len(_SHOWN)): byte for i, byte in enumerate(_BYTES)}
"""The character that stands for a byte in GPT-2's files -> the byte."""


@dataclass(frozen=True)
class Models:
    """Where each format lies."""

    vocab_json: str
    merges: str
    tokenizer_json: str = ""
    """Hugging Face's, which gigatoken and fastokens read too."""
    ranks: str = ""
    """tiktoken's."""
    sentencepiece: str = ""
    """A model of sentencepiece's own; it has no GPT-2."""


def raw(token: str) -> bytes:
    """The bytes of a token as GPT-2's files write it."""
    return bytes(_BYTE_OF[character] for character in token)


def convert(vocab_json: str, merges: str, folder: Path) -> Models:
    """Write the other formats into `folder`.

    Raises:
        UserError: when a file cannot be read or is not what its name says.
    """
    try:
        vocabulary: dict[str, int] = json.loads(Path(vocab_json).read_text(encoding="utf-8"))
        lines = Path(merges).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{vocab_json} is not a vocabulary: {error}") from None
    rules = [line for line in lines if line and not line.startswith("#version")]
    made = {left + right for left, _, right in (rule.partition(" ") for rule in rules)}
    ordinary = [token for token in vocabulary if token in made or token in _BYTE_OF]  # "<|endoftext|>" is not
    models = Models(vocab_json, merges, str(folder / "tokenizer.json"), str(folder / "gpt2.tiktoken"))
    Path(models.tokenizer_json).write_text(tokenizer_json({t: vocabulary[t] for t in ordinary}, rules), "utf-8")
    ranks = (f"{base64.b64encode(raw(token)).decode()} {vocabulary[token]}\n" for token in ordinary)
    Path(models.ranks).write_text("".join(ranks), "ascii")
    return models


def tokenizer_json(vocabulary: dict[str, int], merges: list[str]) -> str:
    """Hugging Face's format of a byte-level BPE with GPT-2's split and no special token."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    record: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model | {"vocab": vocabulary, "merges": merges},
    }
    return json.dumps(record, ensure_ascii=False)
