"""Text that is encoded while a model is trained on it: its tokenizer first, then shards by a process beside the run.

config.source --tokenizer, learned where none is named--> make-data, a child --> data.train, data.validation

Of several ranks the first one does it; the others read its shards, which have to be on a file system that all see.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lm_core.data.shards import is_stream
from lm_core.errors import UserError
from lm_core.run import together
from lm_core.world import current
from lm_pipeline.commands.make_data import missing_folders
from lm_pipeline.commands.train_config import SourceConfig, TrainConfig
from lm_pipeline.commands.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.maker import Maker, making_data
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
    makers = list[Maker]()
    with ExitStack() as held:
        tokenizer = current().of_first(lambda: _encoded(config, held, makers))
        validation = config.data.validation or source.output
        paths = {"train": source.output, "validation": validation, "tokenizer": tokenizer}
        filled = config.model_copy(update={"data": config.data.model_copy(update=paths)})
        yield filled, makers[0].keep if makers else lambda: None


def _encoded(config: TrainConfig, held: ExitStack, makers: list[Maker]) -> str:
    """Have the source encoded for as long as it is `held`; returns the path of its tokenizer."""
    shared = {"format", "train", "validation", "validation_fraction", "output", "text_field", "separator"}
    values = config.source.model_dump(include={*shared, "special_tokens", "shard_bytes"})
    tokenizer = held.enter_context(_tokenizer(config))
    job = MakeDataConfig(**values, tokenizer=tokenizer, held_out_by="text", shards=True)
    makers.append(held.enter_context(making_data(job)))
    return tokenizer


def _check(config: TrainConfig) -> None:
    source = config.source
    if together.current():
        raise UserError("source: seeds are trained as one model on token files; make them by transformerlm-make-data")
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
