"""What can be chosen about token files."""

from typing import Literal

from pydantic import Field

from lm_pipeline.text.config import InputConfig

SpecialTokens = Literal["refuse", "text", "ids"]


class MakeDataConfig(InputConfig):
    """Encode text into token files that training reads: train.npy, validation.npy, each with a sidecar."""

    train: tuple[str, ...] = ()
    """Files, folders and globs to read, and - for standard input."""
    validation: tuple[str, ...] = ()
    """The same for validation; alternatively validation_fraction holds a part of train out."""
    tokenizer: str = ""
    """Folder that transformerlm-train-tokenizer wrote, or any tokenizer as path or kind:path ("tiktoken:gpt2")."""
    output: str = ""
    """Folder of the token files; made where there is none."""
    eos_between_documents: bool = True
    """Append the tokenizer's end-of-text id to every document."""
    special_tokens: SpecialTokens = "refuse"
    """What a special token in the text is: a mistake, ordinary text, or its id."""
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Part of the documents of train that goes to validation instead; which ones, the seed decides."""
    seed: int = Field(0, ge=0)
    """Seed of that choice."""
    threads: int = Field(0, ge=0)
    """Threads that encode; 0: one for each core. The result does not depend on it."""
    shard_bytes: int = Field(1 << 26, gt=0)
    """Text of one work unit: the most that is done again after a kill. The result does not depend on it."""
