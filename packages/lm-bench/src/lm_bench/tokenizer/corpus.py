"""A corpus and what is cut out of it: a part for the slow libraries, prefixes, another text to warm up on."""

from dataclasses import dataclass, replace
from pathlib import Path

from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES
from lm_bench.tokenizer.texts import prefix
from lm_bench.tokenizer.workers import Side, Worker
from lm_core.errors import UserError

WARMUP = 4_000_000
"""Bytes of the text that code is loaded and compiled on: enough for a library to leave its path for small texts."""


@dataclass(frozen=True)
class Corpus:
    """Files in a folder of the run's own, but for the corpus itself."""

    path: Path
    part: Path
    """Its first bytes, for libraries that are slow."""
    warmup: Path
    """Its last bytes."""
    folder: Path

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    def of(self, library: str, takes: str = "array") -> Path:
        """File to time a library on. Lists of Python integers of a whole corpus are too large for some machines."""
        return self.part if LIBRARIES[library].slow or takes == "list" else self.path

    def prefix(self, size: int) -> Path:
        """A file with its first `size` bytes, up to a line end."""
        path = self.folder / f"{self.name}-{size}.txt"
        if not path.exists():
            with self.path.open("rb") as file:
                path.write_bytes(prefix(file.read(size + 1), size))
        return path


def cut(path: str, part: int, folder: Path) -> Corpus:
    """Write the pieces of a corpus into `folder`.

    Raises:
        UserError: when it cannot be read, is empty or is not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
        data.decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start:,}") from None
    if not data:
        raise UserError(f"{path} is empty")
    corpus = Corpus(Path(path), folder / "part.txt", folder / "warmup.txt", folder)
    corpus.part.write_bytes(prefix(data, part))
    corpus.warmup.write_bytes(data[-WARMUP:].decode("utf-8", "ignore").encode())
    return corpus


def own_model(corpus: Corpus, models: Models, vocab_size: int, timeout: float) -> Models:
    """`models` with a model that sentencepiece learned from the part of the corpus.

    Raises:
        WorkerError: when it failed, or took more than `timeout` seconds.
    """
    stem = corpus.folder / "sentencepiece"
    with Worker(Side("sentencepiece", 2), models) as worker:
        worker.ask("train_model", timeout, path=str(corpus.part), vocab_size=vocab_size, prefix=str(stem))
    return replace(models, sentencepiece=f"{stem}.model")
