"""Vocabularies in files: GPT-2's two, Hugging Face's one, tiktoken's ranks.

    vocab.json + merges.txt   (gpt2)         tokens and merges; the pattern and what is special are the reader's to say
    tokenizer.json            (huggingface)  everything
    *.tiktoken                (tiktoken)     tokens, which imply the merges; also Llama 3's tokenizer.model

A file is written beside and renamed: it is never seen half-written.
"""

from pathlib import Path

from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats import gpt2, huggingface
from lm_tokenizer.formats.files import write_files
from lm_tokenizer.formats.gpt2 import read_gpt2, write_gpt2
from lm_tokenizer.formats.huggingface import check_pattern, read_huggingface, write_huggingface
from lm_tokenizer.formats.tiktoken import LLAMA_3, is_ranks, read_named, read_tiktoken, write_tiktoken
from lm_tokenizer.vocab import Vocabulary

__all__ = [
    "check_pattern",
    "is_ranks",
    "load",
    "read_gpt2",
    "read_huggingface",
    "read_tiktoken",
    "save",
    "write_gpt2",
    "write_huggingface",
    "write_tiktoken",
]


def load(path: Path) -> Vocabulary:
    """Read what is at a path.

    A folder holds `tokenizer.json` or, without it, `vocab.json` and `merges.txt`. A file is a `tokenizer.json` under
    any name that ends in `.json`, or ranks (`*.tiktoken`): those named r50k_base, p50k_base, cl100k_base or o200k_base
    get the pattern and the special tokens of that encoding, others GPT-2's pattern and no special token. Ranks named
    `tokenizer.model` are Llama 3's.

    Raises:
        TokenizerError: when there is none of these, or it is malformed.
    """
    if path.is_dir():
        if (path / "tokenizer.json").exists():
            return read_huggingface(path / "tokenizer.json")
        if (path / "vocab.json").exists() and (path / "merges.txt").exists():
            return gpt2.read_folder(path)
        if (path / LLAMA_3).exists():
            return load(path / LLAMA_3)
        raise TokenizerError(f"{path}: the folder has no tokenizer.json, and no vocab.json with merges.txt")
    if path.suffix == ".tiktoken" or is_ranks(path):
        return read_named(path)
    if path.suffix == ".json" or not path.exists():
        return read_huggingface(path)
    raise TokenizerError(f"{path}: no tokenizer is recognized: pass a folder, a tokenizer.json or ranks (*.tiktoken)")


def save(vocabulary: Vocabulary, folder: Path) -> None:
    """Write `tokenizer.json`, `vocab.json` and `merges.txt` into a folder, which is made; `load` reads them back.

    A vocabulary with added tokens is in `tokenizer.json` alone: the other two cannot say that they are ordinary text.
    Likewise one with a special token that a merge makes.

    Raises:
        TokenizerError: when the formats cannot hold the vocabulary, before anything is written; or when a file cannot
            be written; every file has its old content then.
    """
    files = gpt2.contents(vocabulary) if gpt2.can_hold(vocabulary) else {}
    # `load` looks for tokenizer.json first: killed after any of them, a new folder holds the whole tokenizer.
    write_files(folder, {"tokenizer.json": huggingface.contents(vocabulary), **files})
