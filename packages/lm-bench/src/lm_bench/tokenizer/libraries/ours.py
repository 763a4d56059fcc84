"""lm_tokenizer, the package of this project."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries.library import Library, Merges
from lm_bench.tokenizer.texts import Text

OURS = "ours"


class Ours(Library):
    """Bytes to an array, and back."""

    name = OURS
    module = "lm_tokenizer"
    distribution = "lm-tokenizer"
    compiles = True
    reads = "data"
    takes = ("array", "list")

    def open(self, models: Models) -> Any:
        """From `vocab.json` and `merges.txt`."""
        return self.imported.Tokenizer.from_files(models.vocab_json, models.merges)

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """An array."""
        # Special tokens in the text are text, as for the others.
        return tokenizer.encode_array(text.data, disallowed_special=(), threads=threads)

    def ids(self, encoded: Any) -> NDArray[np.uint32]:
        """The array."""
        return np.asarray(encoded, np.uint32)

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """Bytes."""
        return tokenizer.decode_bytes(ids)

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """A list."""
        return tokenizer.encode(prompt)

    def start_code(self, models: Models) -> str:
        """From `vocab.json` and `merges.txt`."""
        return (
            "from lm_tokenizer import Tokenizer\n"
            f"Tokenizer.from_files({models.vocab_json!r}, {models.merges!r}).encode(prompt, disallowed_special=())"
        )

    def train(self, path: Path, vocab_size: int, threads: int) -> Merges:
        """From the file."""
        tokenizer = self.imported.Tokenizer.train(path, vocab_size, threads=threads, progress=False)
        tokens = tokenizer.vocabulary.tokens
        return [(tokens[left], tokens[right]) for left, right in tokenizer.vocabulary.merges]
