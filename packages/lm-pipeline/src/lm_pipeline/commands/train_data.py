"""Data of a training config: token files or streams of shards, and the batches over them.

data.train, data.validation --open_data--> token file or stream --> batches, evaluation
"""

from collections.abc import Sequence
from pathlib import Path

from lm_core.config import ModelConfig
from lm_core.data.bare_tokens import is_bare, open_bare
from lm_core.data.batches import Batch, Batches, LengthRule, RandomWindows, SequentialWindows, ShuffledWindows
from lm_core.data.segments import DocumentSequence, within_documents
from lm_core.data.shards import TokenStream, is_stream, read_stream_record
from lm_core.data.stream import StreamWindows
from lm_core.data.token_file import TokenFile
from lm_core.errors import UserError
from lm_core.terminal import say
from lm_pipeline.commands.train_config import DataConfig, TrainConfig
from lm_tokenizer.adapters import TextTokenizer

Data = TokenFile | TokenStream


def open_data(data: DataConfig, split: str, tokenizer: TextTokenizer) -> Data:
    """Open what a config names for a split ("train" or "validation"); of a stream, its first shard is waited for.

    Raises:
        UserError: when it is not there, damaged, or of another tokenizer; naming the key.
    """
    path = getattr(data, split)
    if not path:
        advice = ", which --validation_fraction 0.1 makes of the training text" if split == "validation" else ""
        raise UserError(
            f"data.{split}: name a token file of transformerlm-make-data{advice}; or text, as source.{split}"
        )
    if not Path(path).is_file() and not is_stream(path):
        what = f"there are no token shards in {path}" if Path(path).is_dir() else f"there is no token file {path}"
        raise UserError(f"data.{split}: {what}: make it with transformerlm-make-data")
    try:
        file = _opened(data, path, split, tokenizer)
    except UserError as error:
        raise UserError(f"data.{split}: {error}") from None
    if file.metadata.vocab_size > tokenizer.vocab_size:
        raise UserError(
            f"data.{split}: {path} has ids up to {file.metadata.vocab_size - 1:,}, beyond the tokenizer's vocabulary of"
            f" {tokenizer.vocab_size:,}"
        )
    return file


def _opened(data: DataConfig, path: str, split: str, tokenizer: TextTokenizer) -> Data:
    if is_stream(path):
        return TokenStream.open(path, split, tokenizer.fingerprint, skip_bad=data.skip_bad_shards)
    return _bare_file(data, path, tokenizer) if is_bare(path) else TokenFile.open(path, tokenizer.fingerprint)


def _bare_file(data: DataConfig, path: str, tokenizer: TextTokenizer) -> TokenFile:
    """A file without a sidecar: data.tokenizer must name its tokenizer."""
    if not data.tokenizer:
        raise UserError(f"{path} has no sidecar: name the tokenizer that it was made with as data.tokenizer")
    file = open_bare(path, tokenizer.vocab_size, tokenizer.eos_id)
    say(
        f"note: {path} has no sidecar: its {len(file):,} ids are below the {tokenizer.vocab_size:,} of"
        f" {data.tokenizer}; whether they are from this tokenizer cannot be checked"
    )
    return file


def size_of(train: Data, name: str) -> tuple[int, str, list[str]]:
    """Number of training tokens, a description of the data, and notes.

    The description of a stream does not depend on how much of it is written.
    """
    if isinstance(train, TokenFile):
        return len(train), f"{name}, {len(train):,} training tokens", []
    record = read_stream_record(train.path)
    if record:
        return record.tokens[train.tokens.split], f"{name}, token shards", []
    note = f"note: {train.path} is still being written; below, it counts as its first {len(train):,} tokens"
    return len(train), f"{name}, token shards", [note]


def batches_of(config: TrainConfig, model: ModelConfig, data: Data, eos_id: int | None) -> Batches:
    """The training batches.

    Raises:
        UserError: when there are too few tokens for one window, or keys do not fit the data.
    """
    batches = _windows(config, model, data)
    return within_documents(batches, _end_of_text(eos_id)) if config.data.segments else batches


def _windows(config: TrainConfig, model: ModelConfig, data: Data) -> Batches:
    rows, length = config.training.batch_size, model.seq_len
    is_random = config.data.order == "random"
    if is_random and isinstance(data, TokenStream):
        raise UserError('data.order: a stream of shards is "shuffled", in blocks; "random" takes one token file')
    try:
        if isinstance(data, TokenStream):
            return StreamWindows(data.tokens, rows, length, config.seed, config.data.shuffle_block)
        if is_random:
            return RandomWindows(data.tokens, rows, LengthRule(length, length), config.seed)
        return ShuffledWindows(data.tokens, rows, length, config.seed)
    except UserError as error:
        raise UserError(f"data.train: {data.path}: {error}; give more text, or a smaller model.seq_len") from None


def evaluation_of(config: TrainConfig, model: ModelConfig, data: Data, eos_id: int | None) -> Sequence[Batch]:
    """The validation batches; those of a stream that is still written are its first `data.eval_tokens`.

    Raises:
        UserError: when there are too few tokens, or it is not known how many there will be.
    """
    limit = config.data.eval_tokens or None
    if isinstance(data, TokenStream):
        if limit is None and read_stream_record(data.path) is None:
            raise UserError(
                f"data.validation: {data.path} is still being written: set data.eval_tokens to evaluate on that many of"
                " its first tokens, or wait until it is complete"
            )
        data.tokens.wait(1 << 62 if limit is None else limit + 1)
    try:
        batches = SequentialWindows(data.tokens, config.training.batch_size, model.seq_len, limit)
    except UserError as error:
        raise UserError(f"data.validation: {data.path}: {error}") from None
    return DocumentSequence(batches, _end_of_text(eos_id)) if config.data.segments else batches


def _end_of_text(eos_id: int | None) -> int:
    if eos_id is None:
        raise UserError("data.segments: the tokenizer has no end-of-text token, so nothing divides documents")
    return eos_id
