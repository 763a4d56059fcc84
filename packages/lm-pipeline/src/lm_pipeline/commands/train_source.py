"""Text that is encoded while a model is trained on it: its tokenizer first, then shards by a process beside the run.

config.source --tokenizer, learned where none is named--> make-data, a child --> data.train, data.validation
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lm_core.errors import UserError
from lm_pipeline.commands.train_config import SourceConfig, TrainConfig
from lm_pipeline.commands.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.maker import making_data
from lm_tokenizer.adapters import tokenizer_file_in


@contextmanager
def with_source(config: TrainConfig) -> Iterator[TrainConfig]:
    """A context in which the source of a config, if it has any, is encoded; gives the config that reads the shards.

    Raises:
        UserError: for a mistake in the source.
    """
    source = config.source
    if not source.train:
        yield config
        return
    if not source.output:
        raise UserError("source.output: name a folder for the token shards")
    tokenizer = config.data.tokenizer or _learned(source)
    shared = {"format", "train", "validation", "validation_fraction", "output", "text_field", "separator"}
    values = source.model_dump(include={*shared, "special_tokens", "shard_bytes"})
    with making_data(MakeDataConfig(**values, tokenizer=tokenizer, held_out_by="text", shards=True)):
        paths = {"train": source.output, "validation": config.data.validation or source.output, "tokenizer": tokenizer}
        yield config.model_copy(update={"data": config.data.model_copy(update=paths)})


def _learned(source: SourceConfig) -> str:
    """The tokenizer beside the shards, learned from the training inputs if it is not there yet."""
    folder = Path(f"{source.output.rstrip('/')}-tokenizer")
    if not (folder.is_dir() and tokenizer_file_in(folder)):
        values = source.model_dump(include={"format", "text_field", "separator", "vocab_size"})
        train_tokenizer(TrainTokenizerConfig(input=source.train, save_dir=str(folder), **values))
    return str(folder)
