"""Interface of a library to the measurements."""

import importlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.texts import Text

Merges = list[tuple[bytes, ...]]
"""In the order learned: (left, right), or (token,) of a library that does not tell the parts."""


class Library:
    """One library. A method that a library has no use for is not overridden, and `trains` or `encodes` says so."""

    name: ClassVar[str]
    module: ClassVar[str]
    distribution: ClassVar[str] = ""
    """The package's name where it is not `name`."""
    trains: ClassVar[bool] = True
    encodes: ClassVar[bool] = True
    gpt2: ClassVar[bool] = True
    """Whether it has GPT-2's split and merges, so that its ids and merges must equal ours."""
    slow: ClassVar[bool] = False
    """Below some 40 MB/s and without a cache that grows: a part of the corpus tells its speed."""
    reads: ClassVar[Literal["path", "data", "pieces", "lines"]] = "pieces"
    """The form of a text that `encode` takes; it is made before the clock starts."""
    takes: ClassVar[tuple[str, ...]] = ("list",)
    """Forms of ids that it decodes: "array", "list"; the natural one first."""
    compiles: ClassVar[bool] = False
    """Whether its first training on a machine compiles code, which is then kept."""
    note: ClassVar[str] = ""
    """Remark for a reader of its figures."""

    @property
    def imported(self) -> Any:
        """The module."""
        return importlib.import_module(self.module)

    def open(self, models: Models) -> Any:
        """A new tokenizer, in which nothing is cached."""
        raise NotImplementedError

    def encode(self, tokenizer: Any, text: Text, threads: int) -> Any:
        """The ids of `text` in the form that the library is fastest at."""
        raise NotImplementedError

    def ids(self, encoded: Any) -> NDArray[np.uint32]:
        """[tokens]: what `encode` returned, as one array."""
        return np.concatenate([np.asarray(part, np.uint32) for part in encoded] or [np.empty(0, np.uint32)])

    def decode(self, tokenizer: Any, ids: Any) -> str | bytes:
        """The text of `ids`, in the form that the library is fastest at."""
        raise NotImplementedError

    def encode_prompt(self, tokenizer: Any, prompt: str) -> Any:
        """The ids of a short text."""
        raise NotImplementedError

    def start_code(self, models: Models) -> str:
        """A program that reads GPT-2 from the library's own format and encodes `prompt`, which is set above it."""
        raise NotImplementedError

    def train(self, path: Path, vocab_size: int, threads: int) -> Merges:
        """Learn `vocab_size` tokens, the 256 bytes among them, from a file; [] where there are no merges to tell."""
        raise NotImplementedError
