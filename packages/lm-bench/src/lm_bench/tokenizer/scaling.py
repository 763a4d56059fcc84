"""Time per byte against the length of the text, and on texts without a place to split: both ought to be flat."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_bench.rounds import interleaved, per_byte
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer.corpus import Corpus
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.workers import Side, workers

SIZES = (1_000_000, 10_000_000, 100_000_000)
PATHOLOGICAL = {"letter": "a", "space": " ", "emoji": "😀", "newline": "\n"}
LENGTH = 1_000_000
"""Bytes of a pathological text."""


@dataclass(frozen=True)
class Scaling:
    """One text with one library, one thread."""

    corpus: str
    library: str
    text: str
    size: int
    cold_ns_per_byte: Quartiles
    warm_ns_per_byte: Quartiles
    over_ordinary: Quartiles | None
    """Cold time per byte over that of the first text, within each round."""


def measure_linear(names: Sequence[str], corpus: Corpus, models: Models, rounds: int) -> list[Scaling]:
    """Prefixes of the corpus of growing length."""
    texts = {f"{size / 1e6:g} MB": corpus.prefix(size) for size in SIZES if size < 1.1 * corpus.path.stat().st_size}
    return _measure(names, corpus, models, rounds, texts or {"all": corpus.path})


def measure_pathological(names: Sequence[str], corpus: Corpus, models: Models, rounds: int) -> list[Scaling]:
    """One character for a megabyte, after as much of the corpus."""
    texts = {"ordinary": corpus.prefix(LENGTH)}
    for name, character in PATHOLOGICAL.items():
        texts[name] = corpus.folder / f"{name}.txt"
        texts[name].write_text(character * (LENGTH // len(character.encode())), "utf-8", newline="")
    return _measure(names, corpus, models, rounds, texts)


def _measure(
    names: Sequence[str], corpus: Corpus, models: Models, rounds: int, texts: dict[str, Path]
) -> list[Scaling]:
    first = next(iter(texts))
    with workers([Side(name, 1) for name in names], models) as all_workers:
        for worker in all_workers.values():
            worker.ask("warm_up", path=str(corpus.warmup))

        def block(case: tuple[str, str]) -> tuple[float, float]:
            worker, path = all_workers[Side(case[0], 1)], str(texts[case[1]])
            cold, warm = (worker.ask("encode", path=path, fresh=fresh)["seconds"] for fresh in (True, False))
            return cold, warm

        samples = interleaved([(name, text) for name in names for text in texts], rounds, block)
    results = []
    for (name, text), pairs in samples.items():
        size = texts[text].stat().st_size
        cold, warm = (per_byte([pair[i] for pair in pairs], size) for i in (0, 1))
        ordinary = per_byte([pair[0] for pair in samples[name, first]], texts[first].stat().st_size)
        over = None if text == first else Quartiles.of([a / b for a, b in zip(cold, ordinary, strict=True)])
        results.append(Scaling(corpus.name, name, text, size, Quartiles.of(cold), Quartiles.of(warm), over))
    return results
