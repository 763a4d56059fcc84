"""The peers written for speed: gigatoken, fastokens, rustbpe. Their threads follow RAYON_NUM_THREADS."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bench.tokenizer.gpt2 import PATTERN, Models
from lm_bench.tokenizer.libraries.library import Library, Merges
from lm_bench.tokenizer.texts import Text, stream


class Gigatoken(Library):
    """The file to an awkward array of uint32: the fastest of its ways, with 1 thread and with 2."""

    name = "gigatoken"
    module = "gigatoken"
    reads = "path"
    takes = ("array",)

    def open(self, models: Models) -> Any:
        """From `tokenizer.json`."""
        return self.imported.Tokenizer.from_json(Path(models.tokenizer_json).read_bytes())

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """One document, split by gigatoken among its threads."""
        return tokenizer.encode_files(self.imported.TextFileSource([text.path]), parallel=True)

    def ids(self, encoded: Any) -> NDArray[np.uint32]:
        """The only row."""
        return np.asarray(encoded[0], np.uint32)

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """Bytes."""
        return tokenizer.decode(ids)

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """An array."""
        return tokenizer.encode(prompt)

    def start_code(self, models: Models) -> str:
        """From tiktoken's ranks, which it reads faster than `tokenizer.json`."""
        return f"from gigatoken import Tokenizer\nTokenizer.from_tiktoken({models.ranks!r}, 'gpt2').encode(prompt)"

    def train(self, path: Path, vocab_size: int, threads: int) -> Merges:
        """From the file, with Hugging Face's tie rule."""
        return self.imported.train_bpe(path, vocab_size, [])[1]


class Fastokens(Library):
    """Pieces to one buffer of uint32. It does not train."""

    name = "fastokens"
    module = "fastokens"
    trains = False

    def open(self, models: Models) -> Any:
        """From `tokenizer.json`."""
        return self.imported.Tokenizer.from_file(models.tokenizer_json)

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """`encode_batch_flat`, its fastest way."""
        return tokenizer.encode_batch_flat(text.pieces)

    def ids(self, encoded: Any) -> NDArray[np.uint32]:
        """The buffer."""
        return np.frombuffer(encoded[0], np.uint32)

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """Text."""
        return tokenizer.decode(ids)

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """A list."""
        return tokenizer.encode(prompt).ids

    def start_code(self, models: Models) -> str:
        """From `tokenizer.json`."""
        return f"from fastokens import Tokenizer\nTokenizer.from_file({models.tokenizer_json!r}).encode(prompt).ids"


class Rustbpe(Library):
    """Trains; it cannot read GPT-2."""

    name = "rustbpe"
    module = "rustbpe"
    encodes = False

    def train(self, path: Path, vocab_size: int, threads: int) -> Merges:
        """From pieces of the file."""
        tokenizer = self.imported.Tokenizer()
        tokenizer.train_from_iterator(stream(path), vocab_size, buffer_size=8, pattern=PATTERN)
        ranks = sorted(tokenizer.get_mergeable_ranks(), key=lambda pair: pair[1])
        return [(bytes(token),) for token, _ in ranks if len(token) > 1]
