"""Text that is encoded while a model is trained on it: its tokenizer first, then shards by a process beside the run.

config.source --tokenizer, learned where none is named--> make-data, a child --> data.train, data.validation
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lm_core.data.shards import is_stream
from lm_core.errors import UserError
from lm_pipeline.commands.make_data import missing_folders
from lm_pipeline.commands.train_config import SourceConfig, TrainConfig
from lm_pipeline.commands.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.maker import making_data
from lm_tokenizer.adapters import tokenizer_file_in


@contextmanager
def with_source(config: TrainConfig) -> Iterator[tuple[TrainConfig, Callable[[], None]]]:
    """A context in which the source of a config, if it has any, is encoded.

    It gives the config that reads the shards, and what to call when a run stands on them: until then, a mistake in the
    text takes away what this start has made.

    Raises:
        UserError: for a mistake in the source.
    """
    source = config.source
    if not source.train:
        yield config, lambda: None
        return
    _check(config)
    shared = {"format", "train", "validation", "validation_fraction", "output", "text_field", "separator"}
    values = source.model_dump(include={*shared, "special_tokens", "shard_bytes"})
    with _tokenizer(config) as tokenizer:
        job = MakeDataConfig(**values, tokenizer=tokenizer, held_out_by="text", shards=True)
        validation = config.data.validation or source.output
        paths = {"train": source.output, "validation": validation, "tokenizer": tokenizer}
        with making_data(job) as maker:
            yield config.model_copy(update={"data": config.data.model_copy(update=paths)}), maker.keep


def _check(config: TrainConfig) -> None:
    source = config.source
    if not source.output:
        raise UserError("source.output: name a folder for the token shards")
    if not (source.validation or source.validation_fraction or config.data.validation):
        raise UserError(
            "source.validation: name validation inputs, or hold out a part of the text by source.validation_fraction"
        )


@contextmanager
def _tokenizer(config: TrainConfig) -> Iterator[str]:
    """The tokenizer of the config, or that beside the shards, which is learned if it is not there yet.

    One that is learned stays where shards of it do.
    """
    source, folder = config.source, Path(f"{config.source.output.rstrip('/')}-tokenizer")
    if config.data.tokenizer or (folder.is_dir() and tokenizer_file_in(folder)):
        yield config.data.tokenizer or str(folder)
        return
    new = missing_folders(folder)
    _learn(source, folder)
    try:
        yield str(folder)
    except UserError:
        if new and not is_stream(source.output):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # something else lies there
                for path in new[1:]:
                    path.rmdir()
        raise


def _learn(source: SourceConfig, folder: Path) -> None:
    values = source.model_dump(include={"format", "text_field", "separator", "vocab_size"})
    train_tokenizer(TrainTokenizerConfig(input=source.train, save_dir=str(folder), **values))
