"""The measurement behind `lm-bench data`: how many tokens a second one core reads, encodes and packs.

    text, JSON lines, parquet, hub: --read--> documents --encode, write--> shards --> batches

"read" stops at the documents; "read, encode, write" is the whole of make-data, with a tokenizer that has seen no text
yet. "pack" cuts the shards into shuffled batches, on whose rows documents follow one another with end-of-text between.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lm_bench.rounds import interleaved
from lm_bench.statistics import Quartiles
from lm_core.data.batches import Batches, ShuffledWindows
from lm_core.data.shards import TokenStream
from lm_core.data.stream import StreamWindows
from lm_core.data.token_file import TokenFile
from lm_core.errors import UserError
from lm_core.terminal import aligned
from lm_pipeline.commands.make_data import make_data
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.tokens.encoding import batches as batches_of_text
from lm_pipeline.tokens.job import plan
from lm_pipeline.tokens.tokenizers import load_tokenizer
from lm_pipeline.tokens.units import Progress
from lm_tokenizer import Tokenizer

EOT = "<|endoftext|>"
ROWS, LENGTH = 16, 1024
_SAMPLE = 10_000_000
"""Bytes of the text that the tokenizer is trained on."""


@dataclass(frozen=True)
class DataRate:
    """One part of the way, from one kind of source."""

    source: str
    part: str
    tokens: int
    seconds: Quartiles

    @property
    def tokens_per_second(self) -> float:
        """Of the median."""
        return self.tokens / self.seconds.median


def measure(text: Path, documents: int, vocab_size: int, rounds: int) -> list[DataRate]:
    """Measure on `text`, cut into documents of about `documents` bytes, with a tokenizer learned from it.

    Raises:
        UserError: when the text cannot be read, or is too short for a batch.
    """
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as name, one_core():
        folder = Path(name)
        sources = write_sources(_documents(text, documents), folder)
        tokenizer = folder / "tokenizer"
        sample = folder / "sample.txt"
        sample.write_bytes(text.read_bytes()[:_SAMPLE])
        Tokenizer.train(str(sample), vocab_size=vocab_size, special_tokens=[EOT]).save(tokenizer)
        configs = {
            source: MakeDataConfig(
                train=(place,), tokenizer=str(tokenizer), output=str(folder / source), separator=EOT, threads=1
            )
            for source, place in sources.items()
        }
        return [*_making(configs, rounds), *_packing(folder, configs["text"], rounds)]


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, its threads among them, on one core, where the system lets it."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write_sources(documents: list[str], folder: Path) -> dict[str, str]:
    """The same documents in each form that can be read here: kind of source -> input of make-data."""
    (folder / "text.txt").write_text(EOT.join(documents), encoding="utf-8")
    lines = "".join(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)
    (folder / "lines.jsonl").write_text(lines, encoding="utf-8")
    found = {"text": "text.txt", "JSON lines": "lines.jsonl"}
    if find_spec("pyarrow"):
        import pyarrow as pa
        from pyarrow import parquet

        (folder / "hub").mkdir()
        parquet.write_table(pa.table({"text": documents}), folder / "hub" / "rows.parquet", row_group_size=10_000)
        found["parquet"] = "hub/rows.parquet"
    places = {source: str(folder / name) for source, name in found.items()}
    if "parquet" in found and find_spec("datasets"):
        places["hub: (parquet)"] = f"hub:{folder / 'hub'}"
    return places


def _documents(text: Path, size: int) -> list[str]:
    try:
        content = text.read_text(encoding="utf-8").replace(EOT, "")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text {text}: {error}") from None
    return [content[i : i + size] for i in range(0, len(content), size)]


def _making(configs: dict[str, MakeDataConfig], rounds: int) -> list[DataRate]:
    def read(config: MakeDataConfig) -> int:
        job = plan(config, load_tokenizer(config.tokenizer))
        return sum(len(batch.texts) for batch in batches_of_text(job, Progress()))

    def make(config: MakeDataConfig) -> int:
        shutil.rmtree(config.output, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_data(config.model_copy(update={"shards": True}))
        return 0

    parts = {"read": read, "read, encode, write": make}
    sides = [(source, part) for source in configs for part in parts]
    seconds = interleaved(sides, rounds, lambda side: _seconds(lambda: parts[side[1]](configs[side[0]])))
    tokens = {source: len(TokenStream.open(config.output, "train").tokens) for source, config in configs.items()}
    return [DataRate(*side, tokens[side[0]], Quartiles.of(sample)) for side, sample in seconds.items()]


def _packing(folder: Path, config: MakeDataConfig, rounds: int) -> list[DataRate]:
    joined = config.model_copy(update={"output": str(folder / "joined")})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_data(joined)
    stream, file = TokenStream.open(config.output, "train"), TokenFile.open(folder / "joined" / "train.npy")
    sides: dict[str, Batches] = {
        "shards": StreamWindows(stream.tokens, ROWS, LENGTH, seed=0),
        "token file": ShuffledWindows(file.tokens, ROWS, LENGTH, seed=0),
    }
    steps = len(file) // (ROWS * LENGTH)
    if not steps:
        raise UserError(f"--text: {len(file):,} tokens are too few for one batch of {ROWS * LENGTH:,}")

    def epoch(side: str) -> float:
        return _seconds(lambda: [sides[side].batch(step) for step in range(1, steps + 1)])

    seconds = interleaved(list(sides), rounds, epoch)
    size = steps * ROWS * LENGTH
    return [DataRate(side, "pack", size, Quartiles.of(sample)) for side, sample in seconds.items()]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def data_table(results: list[DataRate]) -> str:
    """One row for each part of each source."""
    return aligned([("source", "part", "tokens", "s (quartiles)", "M tokens/s"), *map(_row, results)])


def _row(rate: DataRate) -> tuple[str, ...]:
    low, median, high = rate.seconds.low, rate.seconds.median, rate.seconds.high
    spread = f"{median:.2f} ({low:.2f}-{high:.2f})"
    return (rate.source, rate.part, f"{rate.tokens:,}", spread, f"{rate.tokens_per_second / 1e6:.2f}")
