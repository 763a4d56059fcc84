"""`transformerlm-infer`: prompts -> text.

    config -> saved model, prompts -> ids -> Generation, a group of rows at a time -> text, records

A framework is imported when the model, the tokenizer and the prompts have been found good.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lm_core.backend import Backend, load_backend
from lm_core.config import SamplingConfig
from lm_core.continuation import Continuation, Ending, continue_rows
from lm_core.errors import UserError
from lm_core.file_names import json_text
from lm_core.model.memory import check_memory, decoding_memory
from lm_core.sampling import Generation
from lm_core.terminal import put, say
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.generation.prompts import encode_prompts, read_prompts
from lm_pipeline.generation.records import TextRecords, check_logging
from lm_pipeline.program import run_program
from lm_pipeline.saved_model import SavedModel, load_model
from lm_tokenizer.text_deltas import text_deltas_of

PROGRAM = "transformerlm-infer"
INTERRUPTED = 130
MOST_TEXTS = 1_000_000


def main() -> int:
    """The program; returns its exit code."""
    return run_program(InferConfig, PROGRAM, infer)


def infer(config: InferConfig) -> int:
    """Continue the prompts; returns the exit code, which is 130 when the text was stopped by Ctrl-C.

    Raises:
        UserError: for a mistake in the config, before any text is written.
    """
    check_logging(config)
    model = load_model(config.checkpoint, config.which, config.tokenizer, weights=config.weights)
    prompts = read_prompts(config)
    if len(prompts) * config.n > MOST_TEXTS:
        raise UserError(f"n: {len(prompts) * config.n:,} texts are too many for one call: at most {MOST_TEXTS:,}")
    start = next(iter(model.eos_ids), model.tokenizer.eos_id)
    ids = encode_prompts(prompts, model.tokenizer, model.config.seq_len, start, say)
    rows = [
        Row(prompt, of_it, number) for prompt, of_it in zip(prompts, ids, strict=True) for number in range(config.n)
    ]
    writer = Writer(config, model, load_backend(config.backend))
    needed = decoding_memory(model.config, config.step, min(len(rows), config.batch_size))
    check_memory(needed, writer.backend.memory(config.step), "decoding")
    with TextRecords(config, model.name) as records:
        say(f"{model.name}; {writer.backend.describe(config.step)}")
        if model.note:
            say(model.note)
        for row, continuation in writer.write(rows):
            record = writer.record(row, continuation)
            records.write(record)
            if config.output == "json":
                put(json_text(record))
            elif not writer.streams(rows):
                _print_text(row, continuation, len(rows), config.n)
            if continuation.reason == "interrupted":
                writer.stopped = True
    return INTERRUPTED if writer.stopped else 0


@dataclass(frozen=True)
class Row:
    """A text to write."""

    prompt: str
    ids: list[int]
    sample: int
    """Which of the continuations of its prompt it is."""


class Writer:
    """A model, and how it writes."""

    def __init__(self, config: InferConfig, model: SavedModel, backend: Backend) -> None:
        self.config, self.model, self.backend = config, model, backend
        self.sampling = _clamped(config.sampling, model.tokenizer.vocab_size)
        self.ending = Ending(config.max_new_tokens, () if config.ignore_eos else model.eos_ids, config.stop)
        self.stopped = False

    def streams(self, rows: Sequence[Row]) -> bool:
        """Whether text is printed as it comes."""
        return self.config.stream and self.config.output == "text" and len(rows) == 1

    def write(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Continuation]]:
        """Every row with its continuation, in order; none after the group in which it was stopped."""
        for first in range(0, len(rows), self.config.batch_size):
            group = rows[first : first + self.config.batch_size]
            yield from zip(group, self._write_group(group, first, self.streams(rows)), strict=True)
            if self.stopped:
                return

    def _write_group(self, group: Sequence[Row], first: int, stream: bool) -> list[Continuation]:
        model, prompts = self.model, [row.ids for row in group]
        decoder = self.backend.decoder(
            model.config, self.config.step, model.weights, len(group), model.tokenizer.vocab_size
        )

        def begin() -> Generation:
            return Generation(decoder, prompts, model.config.seq_len, self.config.seed + first, self.sampling)

        deltas = [text_deltas_of(model.tokenizer, row.ids, row.prompt) for row in group]
        if not stream:
            return continue_rows(begin, deltas, self.ending)
        put(group[0].prompt, end="")
        written = continue_rows(begin, deltas, self.ending, _print_delta)
        put("")
        return written

    def record(self, row: Row, continuation: Continuation) -> dict[str, Any]:
        """Record of one text."""
        sampling, count, seconds = self.sampling, len(continuation.ids), continuation.seconds
        return {
            "params.temperature": sampling.temperature,
            "params.p": sampling.top_p,
            "params.top_k": sampling.top_k,
            "params.min_p": sampling.min_p,
            "params.repetition_penalty": sampling.repetition_penalty,
            "params.eos_token_id": _one_or_several(self.ending.eos_ids),
            "params.max_new_tokens": self.ending.max_new_tokens,
            "params.seed": self.config.seed,
            "params.sample": row.sample,
            "params.checkpoint": self.model.name,
            "text.prompt": row.prompt,
            "text.output": continuation.text,
            "text.end": continuation.reason,
            "metrics.tokens": count,
            "metrics.latency_ms": round(1000 * seconds, 3),
            "metrics.tokens_per_second": round(count / seconds, 3) if seconds else 0.0,
        }


def _one_or_several(ids: Collection[int]) -> int | list[int] | None:
    """As `generation_config.json` of transformers says it."""
    return next(iter(ids), None) if len(ids) < 2 else list(ids)


def _clamped(sampling: SamplingConfig, vocab_size: int) -> SamplingConfig:
    if sampling.top_k <= vocab_size:
        return sampling
    say(f"note: top_k {sampling.top_k:,} is above the vocabulary: {vocab_size:,} is used")
    return sampling.model_copy(update={"top_k": vocab_size})


def _print_delta(_row: int, text: str) -> None:
    put(text, end="")


def _print_text(row: Row, continuation: Continuation, rows: int, samples: int) -> None:
    if rows > 1:
        sample = f", {row.sample + 1} of {samples}" if samples > 1 else ""
        put(f"--- {json.dumps(row.prompt, ensure_ascii=False)}{sample} ---")
    put(row.prompt + continuation.text)
