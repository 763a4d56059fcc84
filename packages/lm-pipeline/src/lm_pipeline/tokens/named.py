"""Dataset -> tokenizer -> token files, which are kept: the next run on the same text finds them.

    save folder/data/NAME/...                       what was downloaded
    save folder/data/tokens/NAME-TEXT/words.json    the vocabulary of the text
    save folder/data/tokens/NAME-TEXT/TOKENIZER/    train.npy  validation.npy  test.npy

TEXT and TOKENIZER are hashes, so neither another text nor another tokenizer is ever taken for this one. Whatever makes
a vocabulary gives it a defined order (`lm_tokenizer.adapters`): it is the same in every process.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.data.token_file import TokenFile
from lm_core.disk.files import make_folder
from lm_core.errors import UnreadableError, UserError
from lm_pipeline.text.named import DATASETS, SPLITS, DatasetFiles, Split, find_dataset
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer, train_tokenizer
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.token_file import TokenFileWriter
from lm_tokenizer.vocab import Vocabulary

_CHUNK = 1 << 22
_ALL_BYTES = tuple(bytes([byte]) for byte in range(256))


@dataclass(frozen=True)
class Corpus:
    """A dataset as ids."""

    tokenizer: TextTokenizer
    splits: dict[Split, TokenFile]
    text: str
    """SHA-256 of the text of all splits."""


def load_corpus(
    name: str,
    data_dir: str,
    tokenizer: TextTokenizer | str,
    data: Path,
    say: Callable[[str], None],
) -> Corpus:
    """Find or download a dataset and encode it.

    Args:
        name: of the dataset.
        data_dir: where it lies already; "" downloads it.
        tokenizer: one that a run has, one by name, or "" for the default: words for ptb and wikitext, bytes for
            enwik8, characters for text8 and tinyshakespeare.
        data: folder for downloads and token files.
        say: takes a line on what takes long.

    Raises:
        UserError: for a dataset or tokenizer that cannot be had, or a text that is not in the dataset's layout.
    """
    files = find_dataset(name, Path(data_dir) if data_dir else None, data, say)
    text = hashlib.sha256()
    for split in SPLITS:
        text.update(hashlib.sha256(files.read(split)).digest())
    folder = data / "tokens" / f"{name}-{text.hexdigest()[:16]}"
    try:
        if isinstance(tokenizer, str):
            tokenizer = load_tokenizer(tokenizer) if tokenizer else _default_tokenizer(name, files, folder, say)
        folder /= tokenizer.fingerprint[:16]
        make_folder(folder, within=data)
        splits = {split: _token_file(folder, split, tokenizer, files, say) for split in SPLITS}
    except TokenizerError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    return Corpus(tokenizer, splits, text.hexdigest())


def _default_tokenizer(name: str, files: DatasetFiles, folder: Path, say: Callable[[str], None]) -> TextTokenizer:
    unit = DATASETS[name].unit
    if unit == "byte":
        return Tokenizer(Vocabulary(_ALL_BYTES, ()))
    kind = {"word": "words", "character": "characters"}[unit]
    try:
        return load_tokenizer(f"{kind}:{folder}")
    except TokenizerError:  # not there yet, or damaged
        pass
    say(f"{name}: building the vocabulary")
    # Words that training did not see are <unk>; characters know none, so they are those of the whole text.
    splits = SPLITS if unit == "character" else ("train",)
    tokenizer = train_tokenizer(kind, itertools.chain.from_iterable(_texts(files.read(split)) for split in splits))
    make_folder(folder, within=folder.parents[1])
    tokenizer.save(folder)
    return tokenizer


def _token_file(
    folder: Path, split: Split, tokenizer: TextTokenizer, files: DatasetFiles, say: Callable[[str], None]
) -> TokenFile:
    path = folder / f"{split}.npy"
    try:
        return TokenFile.open(path, tokenizer.fingerprint)
    except UnreadableError:
        raise
    except UserError as error:
        if path.exists():
            say(f"{error}: rebuilding it")
    text = files.read(split)
    say(f"{split} split: {len(text):,} bytes to encode")
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    with TokenFileWriter(
        path,
        dtype,
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
        eos_id=tokenizer.eos_id,
        source=hashlib.sha256(text).hexdigest(),
    ) as file:
        for ids, text_bytes in _encoded(text, tokenizer):
            file.write(ids, text_bytes)
    return TokenFile.open(path, tokenizer.fingerprint)


def _encoded(text: bytes, tokenizer: TextTokenizer) -> Iterator[tuple[NDArray[Any], int]]:
    """Ids and the bytes that they stand for, a part of the text at a time."""
    if isinstance(tokenizer, Tokenizer) and tuple(tokenizer.vocabulary.tokens) == _ALL_BYTES:
        yield np.frombuffer(text, np.uint8), len(text)  # a split may end within a character
    elif isinstance(tokenizer, Tokenizer):
        yield tokenizer.encode_array(text, disallowed_special=(), errors="replace"), len(text)
    else:
        for part in _texts(text):
            yield tokenizer.encode_array(part, disallowed_special=()), len(part.encode())


def _texts(text: bytes) -> Iterator[str]:
    """The text in parts that end with a line, so that neither memory nor a word is split."""
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + _CHUNK) + 1 if start + _CHUNK < len(text) else len(text)
        if end <= start:  # a line that is longer
            end = text.find(b"\n", start) + 1 or len(text)
        yield text[start:end].decode("utf-8", errors="replace")
        start = end
