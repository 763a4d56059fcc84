"""Parts of a training run that need its tokenizer: samples, bytes of text, and the next steps at its end.

These are the parts of a `lm_core.run.plan.Plan` that need a tokenizer; `lm_core.run.session` does the rest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from lm_core.backend import Trainer
from lm_core.config import ModelConfig, SamplingConfig
from lm_core.continuation import Ending, continue_rows
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.interchange.folder import architecture_of
from lm_core.run.evaluation import BytesOf
from lm_core.run.plan import Sample
from lm_core.sampling import Generation
from lm_pipeline.generation.ending import eos_ids
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.text_deltas import text_deltas_of

_PLAIN = SamplingConfig()
_EXPORTED = ("bpe", "hf", "characters")
"""Kinds of tokenizers that can be written as `tokenizer.json`."""


def text_byte_lengths(tokenizer: TextTokenizer) -> NDArray[np.int64]:
    """UTF-8 bytes of text that each id stands for, [vocab_size]; special tokens have none."""
    lengths = np.array(tokenizer.byte_lengths)
    lengths[list(tokenizer.special_tokens.values())] = 0
    return lengths


def bytes_of_targets(tokenizer: TextTokenizer) -> BytesOf:
    """Return a function that counts the bytes of text of a batch's targets; special tokens have none."""
    lengths = text_byte_lengths(tokenizer)

    def count(batch: Batch) -> int:
        return int(lengths[batch.targets].sum())

    return count


def sample_of(
    tokenizer: TextTokenizer,
    seq_len: int,
    prompt: Sequence[int],
    tokens: int,
    seed: Callable[[int], int],
    *,
    sampling: SamplingConfig = _PLAIN,
    text: str = "",
    at_saves: bool = False,
) -> Sample | None:
    """The sample of a run; None where no tokens are asked for.

    Args:
        tokenizer: of the ids; only its own are drawn.
        seq_len: the model's longest sequence.
        prompt: the ids that it continues, one at least.
        tokens: how many it adds at most; the end of a text ends it.
        seed: of the sample at each step.
        sampling: how ids are drawn; `top_k` may be above the vocabulary.
        text: of the prompt, which is shown; "" where the ids stand for no text that is.
        at_saves: whether there is one at every save.
    """
    chosen = sampling.model_copy(update={"top_k": min(sampling.top_k, tokenizer.vocab_size)})
    ending = Ending(tokens, eos_ids(tokenizer))

    def write(trainer: Trainer, step: int) -> str:
        def begin() -> Generation:
            return Generation(trainer.decoder(1, tokenizer.vocab_size), [prompt], seq_len, seed(step), chosen)

        [written] = continue_rows(begin, [text_deltas_of(tokenizer, prompt, text)], ending)
        return text + written.text

    return Sample(write, f"temperature {chosen.temperature:g}", at_saves) if tokens else None


def next_steps_of_seeds(folder: Path) -> list[str]:
    """Commands to run on a finished series of seeds, one per line."""
    return [f"compare: uv run lm-bench compare {quote(str(folder))}"]


def next_steps(
    model: ModelConfig, tokenizer: TextTokenizer, sample: str = "uv run transformerlm-infer --checkpoint"
) -> Callable[[Path], list[str]]:
    """Commands to run on a finished run, one per line, by its folder; that which samples takes it as its last word."""
    try:
        architecture_of(model)
        is_exported = tokenizer.name in _EXPORTED
    except UserError:  # no architecture of theirs has all that the model has
        is_exported = False

    def lines(folder: Path) -> list[str]:
        path = quote(str(folder))
        export = f"export:  uv run transformerlm-export --checkpoint {path} --output FOLDER"
        return [
            f"sample:  {sample} {path}",
            *([export] if is_exported else []),
            "compare: uv run lm-bench compare RUN RUN ...",
        ]

    return lines
