"""`transformerlm-train-tokenizer`: text -> a folder with tokenizer.json, vocab.json and merges.txt."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from lm_core.errors import UserError
from lm_core.terminal import put, say
from lm_pipeline.program import run_program
from lm_pipeline.text.config import InputConfig
from lm_pipeline.text.documents import Flaw, Place, Rules
from lm_pipeline.text.flaws import Flaws
from lm_pipeline.text.inputs import InputFile, find_inputs, no_text
from lm_pipeline.text.read import read_file
from lm_pipeline.tokens.tokenizers import cutter, tokenizer_in
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import TextTokenizer, tokenizer_file_in
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.reference import TieBreak

PROGRAM = "transformerlm-train-tokenizer"


class TrainTokenizerConfig(InputConfig):
    """Learn a byte-level BPE vocabulary from text."""

    input: tuple[str, ...] = ()
    """Files, folders and globs to read, and - for standard input."""
    vocab_size: int = Field(32000, gt=256)
    """V: maximum number of tokens, including the 256 bytes and the special tokens."""
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    """Special tokens: each is one token, never merged with text; the corpus is split at them."""
    special_tokens_first: bool = False
    """Give the special tokens the first ids, not the last."""
    pattern: str = "gpt2"
    """Pretokenization: gpt2, cl100k, o200k, llama3, or a regular expression."""
    min_frequency: int = Field(0, ge=0)
    """Pairs that occur less often in the corpus are not merged."""
    max_token_length: int = Field(0, ge=0)
    """In bytes; tokens of this length or longer are not created, except pairs of bytes. 0: no limit."""
    tie_break: TieBreak = "huggingface"
    """Of equally frequent pairs, merge first the one of smaller ids (huggingface) or of greater bytes (bytes)."""
    threads: int = Field(0, ge=0)
    """Threads for counting; 0: one per core. The result does not depend on it."""
    save_dir: str = ""
    """Folder of the tokenizer; created if missing."""
    overwrite: bool = False
    """Replace the tokenizer that is already in save_dir."""


def main() -> int:
    """The program; returns its exit code."""
    return run_program(TrainTokenizerConfig, PROGRAM, train_tokenizer)


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Train, save and say what came out.

    Raises:
        UserError, TokenizerError: for a mistake in config or corpus; nothing has been written then.
    """
    if not config.input:
        raise UserError("input: name the files, folders or globs to read")
    if not config.save_dir:
        raise UserError("save_dir: give a folder to save the tokenizer in")
    folder = Path(config.save_dir)
    _check_can_be_made(folder)  # before hours of training
    replaced = _there(folder)
    if replaced and not config.overwrite:
        raise UserError(
            f"save_dir {folder} already holds a tokenizer ({replaced}), and token files or runs may have been made with"
            " it: give another folder, or --overwrite to replace it"
        )
    inputs = find_inputs(config.input, config.choice(config.save_dir))
    for line in inputs.lines():
        say(line)
    rules, flaws, read = config.rules(cutter(config.pattern, config.special_tokens)), Flaws(), [0]
    started = time.perf_counter()
    tokenizer = Tokenizer.train(
        _documents(inputs.files, rules, flaws, read),
        config.vocab_size,
        config.special_tokens,
        config.pattern,
        config.threads or None,
        special_tokens_first=config.special_tokens_first,
        min_frequency=config.min_frequency,
        max_token_length=config.max_token_length or None,
        tie_break=config.tie_break,
    )
    seconds = time.perf_counter() - started
    for line in flaws.lines():
        say(line)
    tokenizer.save(folder)
    if replaced and replaced != _described(tokenizer):
        say(f"replaced the tokenizer in {folder} ({replaced}): token files made with it must be rebuilt")
    if tokenizer.vocab_size < config.vocab_size:
        say(f"the corpus gave {tokenizer.vocab_size:,} tokens, fewer than vocab_size {config.vocab_size:,}")
    put(summary(tokenizer, read[0], seconds))
    put(str(folder))


def summary(tokenizer: Tokenizer, size: int, seconds: float) -> str:
    """The result in one line; `size` is that of the corpus in bytes."""
    vocabulary = tokenizer.vocabulary
    special = set(vocabulary.special_tokens.values())
    longest = max((token for i, token in enumerate(vocabulary.tokens) if i not in special), key=len)
    return (
        f"{tokenizer.vocab_size:,} tokens, {len(vocabulary.merges):,} merges, {seconds:.1f} s,"
        f" {size / 1e6 / seconds:.1f} MB/s, longest token {longest.decode(errors='replace')!r}"
    )


def _there(folder: Path) -> str:
    """Which tokenizer a folder holds; "" for none."""
    try:
        there = tokenizer_in(folder)
    except TokenizerError:
        return f"its {tokenizer_file_in(folder)} cannot be read"
    return _described(there) if there else ""


def _described(tokenizer: TextTokenizer) -> str:
    return f"{tokenizer.vocab_size:,} tokens, fingerprint {tokenizer.fingerprint[:12]}"


def _check_can_be_made(folder: Path) -> None:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"save_dir {folder}: {there.name} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"save_dir {folder} cannot be made: no permission to write in {there}")


def _documents(files: Sequence[InputFile], rules: Rules, flaws: Flaws, read: list[int]) -> Iterator[str]:
    """The documents, long ones in pieces that share no pretoken; `flaws` and `read`, their bytes, are counted up."""
    for file in files:
        for piece in read_file(file, Place(), rules):
            if isinstance(piece, Flaw):
                flaws.add(piece, str(file.path))
            else:
                read[0] += len(piece.data)
                yield piece.data.decode()
    if not read[0]:
        raise UserError(no_text(files))
