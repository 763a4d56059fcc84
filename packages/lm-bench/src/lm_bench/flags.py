"""The flags of each command."""

from typing import Literal, get_args

from pydantic import Field

from lm_core.config import Config, Dtype


class StepFlags(Config):
    """Time our training step against a bare loop of the same model in the same framework, interleaved in one run."""

    backend: Literal["torch", "mlx", "both"] = "both"
    """Which backend."""
    case: Literal["all", "testbed-d", "nanogpt-char"] = "all"
    """Which workload."""
    rounds: int = Field(15, gt=0)
    """Rounds; each times one block of either side, and gives one ratio."""
    steps: int = Field(10, gt=0)
    """Steps per block."""
    compile: bool = False
    """Let the framework compile both sides."""
    dtype: Dtype = "float32"
    """Type of activations and matrix products, on both sides."""
    output: Literal["table", "json"] = "table"
    """What to print on stdout; --json is short for --output json."""
    memory: bool = True
    """Measure peak memory too, each side in a process of its own."""


Part = Literal["train", "encode", "decode", "start", "linear", "pathological"]
Peer = Literal["gigatoken", "fastokens", "tiktoken", "tokenizers", "sentencepiece", "rustbpe"]


class TokenizerFlags(Config):
    """Time our tokenizer against the libraries that are installed, interleaved in one run."""

    corpora: tuple[str, ...] = ()
    """Text files; each is measured on its own. `lm-bench corpus` makes some."""
    vocab_json: str = ""
    """GPT-2's `vocab.json`."""
    merges: str = ""
    """GPT-2's `merges.txt`."""
    parts: tuple[Part, ...] = get_args(Part)
    """What to measure."""
    peers: tuple[Peer, ...] = get_args(Peer)
    """Against which libraries; one that is not installed is named and left out."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to encode with; training gets the largest."""
    rounds: int = Field(7, gt=0)
    """Rounds; each times every side once, and gives one ratio."""
    train_rounds: int = Field(3, gt=0)
    """The same for training."""
    train_size: int = Field(32_000, gt=256)
    """Tokens to learn."""
    train_timeout: float = Field(900, gt=0)
    """Seconds after which a library's training is given up."""
    slow_size: int = Field(10_000_000, gt=0)
    """Bytes of the corpus that the slow libraries are timed on; all of it is encoded once, to compare the ids."""
    output: Literal["table", "json"] = "table"
    """What to print on stdout; --json is short for --output json."""


class CorpusFlags(Config):
    """Write one text file of a given size out of the texts at hand: distinct files, in the order of their hashes."""

    out: str = "corpus.txt"
    """The file to write."""
    size: int = Field(100_000_000, gt=0)
    """Bytes at most; the cut is at a line end."""
    sources: tuple[str, ...] = (".",)
    """Files, and folders to look through."""
    suffixes: tuple[str, ...] = (".txt", ".md", ".rst", ".html")
    """Which files of a folder to take, by the ends of their names. HTML loses its tags."""
