"""Training: a vocabulary learned from the corpus, every time in a new process, and whether the merges are equal."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_bench.rounds import interleaved, ratios
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer.corpus import Corpus
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES, Merges
from lm_bench.tokenizer.worker import WARMUP_VOCAB_SIZE
from lm_bench.tokenizer.workers import Side, Worker, WorkerError


@dataclass(frozen=True)
class Training:
    """One library on one corpus."""

    corpus: str
    library: str
    threads: int
    size: int
    seconds: Quartiles | None
    ratio: Quartiles | None
    """Reference / this; below 1 the reference is faster."""
    peak_mib: float
    """The most that the process held, median over the rounds."""
    imported_mib: float
    """MiB once the library was loaded."""
    loading: float
    """Seconds to import the library and to have its code loaded, before the clock of `seconds` starts."""
    merges: str
    """How they stand to the reference's, or why there are none."""


def measure(
    names: Sequence[str], corpus: Corpus, threads: int, vocab_size: int, rounds: int, timeout: float
) -> list[Training]:
    """Train in turns; the first of `names` is the reference. What fails, or takes over `timeout` s, is not repeated."""
    failures: dict[str, str] = {}

    def train(name: str, path: Path, size: int) -> dict[str, float]:
        if name in failures:
            return {}
        try:
            with Worker(Side(name, threads), Models("", "")) as worker:
                return worker.ask(
                    "train",
                    timeout,
                    path=str(path),
                    vocab_size=size,
                    out=str(_merges_path(corpus, name)),
                    warmup=str(corpus.warmup),
                )
        except WorkerError as error:
            failures[name] = str(error)
            return {}

    for name in names:
        if LIBRARIES[name].compiles:
            train(name, corpus.warmup, WARMUP_VOCAB_SIZE)
    samples = interleaved(names, rounds, lambda name: train(name, corpus.path, vocab_size), warmup=0)
    results = []
    for name, answers in samples.items():
        words = failures.get(name) or _standing(corpus, name, names[0])
        if name in failures:
            results.append(Training(corpus.name, name, threads, corpus.path.stat().st_size, None, None, 0, 0, 0, words))
            continue
        seconds = [answer["seconds"] for answer in answers]
        base = None
        if name != names[0] and names[0] not in failures:
            base = [answer["seconds"] for answer in samples[names[0]]]
        peak, imported, loading = (
            Quartiles.of([answer[key] for answer in answers]).median for key in ("peak", "imported", "loading")
        )
        results.append(
            Training(
                corpus.name,
                name,
                threads,
                corpus.path.stat().st_size,
                Quartiles.of(seconds),
                ratios(seconds, base),
                peak,
                imported,
                loading,
                words,
            )
        )
    return results


def _merges_path(corpus: Corpus, name: str) -> Path:
    return corpus.folder / f"merges-{name}.json"


def _read(corpus: Corpus, name: str) -> Merges:
    path = _merges_path(corpus, name)
    if not path.exists():
        return []
    return [tuple(map(bytes.fromhex, merge)) for merge in json.loads(path.read_text("ascii"))]


def _standing(corpus: Corpus, name: str, reference: str) -> str:
    merges = _read(corpus, name)
    if not LIBRARIES[name].gpt2:
        return "its own split"
    return f"{len(merges):,}" if name == reference else compare(_read(corpus, reference), merges)


def compare(expected: Merges, merges: Merges) -> str:
    """How two lists of merges differ, in words. Where one side tells tokens alone, tokens are compared."""
    if not expected:
        return f"{len(merges):,}, nothing to compare with"
    parts = "merges"
    if any(len(merge) == 1 for merge in (*expected[:1], *merges[:1])):
        parts = "tokens"
        expected, merges = _tokens(expected), _tokens(merges)
    for i, (a, b) in enumerate(zip(expected, merges, strict=False)):
        if a != b:
            same = len(set(expected) & set(merges))
            return f"{parts} differ from number {i:,} on; {same:,} of {len(expected):,} are in both"
    return f"{parts} equal" if len(expected) == len(merges) else f"{len(merges):,} {parts}, not {len(expected):,}"


def _tokens(merges: Merges) -> Merges:
    return [(b"".join(merge),) for merge in merges]
