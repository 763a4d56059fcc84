"""Tokenizers of other kinds under one protocol, so that an app takes any of them by name.

    load_tokenizer("bpe:folder")   load_tokenizer("hf:tokenizer.json")   load_tokenizer("folder")

A library is imported when a tokenizer needs it; `pip install tokenizers tiktoken sentencepiece` installs all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lm_tokenizer.adapters.protocol import TextTokenizer
from lm_tokenizer.adapters.source import Source
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.files import read_json
from lm_tokenizer.formats.tiktoken import LLAMA_3, is_ranks

__all__ = ["TextTokenizer", "load_tokenizer", "tokenizer_file_in", "train_tokenizer"]

# Kind -> module and class; each has `load`, those in _TRAINED `train` too.
_KINDS: Mapping[str, tuple[str, str]] = {
    "bpe": ("lm_tokenizer.tokenizer", "Tokenizer"),
    "hf": ("lm_tokenizer.adapters.huggingface", "HuggingFaceTokenizer"),
    "sentencepiece": ("lm_tokenizer.adapters.sentencepiece", "SentencePieceTokenizer"),
    "tiktoken": ("lm_tokenizer.adapters.tiktoken", "TiktokenTokenizer"),
    "characters": ("lm_tokenizer.adapters.characters", "CharacterTokenizer"),
    "words": ("lm_tokenizer.adapters.words", "WordTokenizer"),
}
_TRAINED = ("bpe", "hf", "sentencepiece", "characters", "words")
_SIZED = ("bpe", "hf", "sentencepiece")
"""Kinds that learn as many tokens as they are told to."""
# What a folder of each kind holds, in the order in which it is looked for.
_FILES = {
    "tokenizer.json": "bpe",
    "vocab.json": "bpe",
    LLAMA_3: "sentencepiece",  # or Llama 3's ranks
    "tiktoken.json": "tiktoken",
    "characters.json": "characters",
    "words.json": "words",
}


def load_tokenizer(name_or_path: str | Path) -> TextTokenizer:
    """Any tokenizer, by `kind:path` or by a path alone.

    Kinds are bpe (this package's own), hf, sentencepiece, tiktoken (also by the name of a published encoding, as in
    `tiktoken:gpt2`), characters and words. Of a path alone, the kind follows from its content: byte-level BPE is read
    by this package, a `tokenizer.json` of another sort by Hugging Face's library. A `tokenizer.model` is
    SentencePiece's or, with ranks in it, Llama 3's.

    Raises:
        TokenizerError: when the kind is not known, nothing is recognized at the path, the file is malformed, or the
            library that it needs is not installed.
    """
    if isinstance(name_or_path, str):
        kind, colon, rest = name_or_path.partition(":")
        if colon and kind in _KINDS:
            return _load(kind, rest)
        if not Path(name_or_path).exists():
            raise TokenizerError(
                f"there is no tokenizer {name_or_path!r}: pass a path that exists, or kind:path, where the kind is "
                f"{', '.join(_KINDS)}"
            )
    path = Path(name_or_path)
    return _load_own_or_library(path) if (kind := _kind_of(path)) == "bpe" else _load(kind, str(path))


def train_tokenizer(
    kind: str, source: Source, vocab_size: int | None = None, special_tokens: Sequence[str] = (), **options: Any
) -> TextTokenizer:
    """Learn a tokenizer from a file, a folder, or an iterable of texts and files.

    Args:
        kind: bpe, hf, sentencepiece, characters or words.
        source: the corpus.
        vocab_size: the most ids; bpe, hf and sentencepiece need it, the others keep every character or word without it.
        special_tokens: names of tokens that stand for no text.
        options: of the kind: `pattern`, `threads`, `progress`, ... for bpe; `pre_tokenizer`, `min_frequency` for hf;
            `model_type`, `threads` for sentencepiece.

    Raises:
        TokenizerError: when the kind is not known, or as the trainer says.
    """
    if kind not in _TRAINED:
        raise TokenizerError(f"there is no trainer for {kind!r}: use {', '.join(_TRAINED)}")
    if vocab_size is None and kind in _SIZED:
        raise TokenizerError(f"a tokenizer of the kind {kind} needs a vocab_size")
    tokenizer: TextTokenizer = _class_of(kind).train(source, vocab_size, special_tokens, **options)
    return tokenizer


def tokenizer_file_in(folder: Path) -> str | None:
    """Name of the first file of a tokenizer that a folder holds, whole or not; None when it holds none."""
    names = (*_FILES, "merges.txt")
    return next((name for name in names if (folder / name).exists() or (folder / name).is_symlink()), None)


def _class_of(kind: str) -> Any:
    module, name = _KINDS[kind]
    return getattr(import_module(module), name)


def _load(kind: str, path: str) -> TextTokenizer:
    load: Callable[[Any], TextTokenizer] = _class_of(kind).load
    return load(path if kind == "tiktoken" else Path(path))


def _load_own_or_library(path: Path) -> TextTokenizer:
    try:
        return _load("bpe", str(path))
    except TokenizerError as own:
        ranks = path / LLAMA_3 if path.is_dir() and not (path / "tokenizer.json").exists() else path
        try:
            return _load("tiktoken", str(ranks)) if is_ranks(ranks) else _load("hf", str(path))
        except TokenizerError:
            raise own from None


def _kind_of(path: Path) -> str:
    if path.is_dir():
        for name, kind in _FILES.items():
            if (path / name).exists():
                return "bpe" if name == LLAMA_3 and is_ranks(path / name) else kind
        raise TokenizerError(f"{path}: no tokenizer is in this folder, which would be one of {', '.join(_FILES)}")
    if path.suffix == ".json":
        match read_json(path):
            case {"kind": ("characters" | "words") as kind}:
                return str(kind)
        return "bpe"
    if path.suffix == ".tiktoken" or is_ranks(path):
        return "bpe"
    if path.suffix == ".model":
        return "sentencepiece"
    raise TokenizerError(f"{path}: no tokenizer is recognized: pass kind:path, where the kind is {', '.join(_KINDS)}")
