"""Config of token files."""

from typing import Literal

from pydantic import Field

from lm_pipeline.text.config import InputConfig

SpecialTokens = Literal["refuse", "text", "ids"]
HeldOutBy = Literal["number", "text"]


class MakeDataConfig(InputConfig):
    """Encode text into token files that training reads: train.npy, validation.npy, each with a sidecar."""

    train: tuple[str, ...] = ()
    """Files, folders and globs to read, and - for standard input."""
    validation: tuple[str, ...] = ()
    """Validation inputs, likewise; alternatively validation_fraction holds out a part of train."""
    tokenizer: str = ""
    """Folder that transformerlm-train-tokenizer wrote, or any tokenizer as path or kind:path ("tiktoken:gpt2")."""
    output: str = ""
    """Folder of the token files; created if missing."""
    eos_between_documents: bool = True
    """Append the tokenizer's end-of-text id to every document."""
    special_tokens: SpecialTokens = "refuse"
    """How to treat a special token in the text: as an error, as ordinary text, or as its id."""
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the documents of train held out for validation, chosen by the seed."""
    held_out_by: HeldOutBy = "number"
    """Whether the number of a document decides, or its text: the same documents are held out in any order then."""
    seed: int = Field(0, ge=0)
    """Seed of that choice."""
    threads: int = Field(0, ge=0)
    """Threads for encoding, or workers of Ray; 0: one per core. The result does not depend on it."""
    on: str = "local"
    """Where to encode: local, ray (started on this machine), or a Ray cluster: ray://host:10001, host:6379, auto."""
    shards: bool = False
    """Keep the finished work units as shards, which training can read while later ones are written; else they are
    joined to one file a split at the end."""
    shard_bytes: int = Field(1 << 26, gt=0)
    """Bytes of text per work unit, and per shard: at most this much is repeated after a kill. No id depends on it."""

    def recorded(self) -> str:
        """The config as it lies beside the token files: where they were made makes no difference."""
        return self.to_toml("config", "print_config", "on")
