"""Encoding, cold (a new tokenizer, code loaded) and warm (the same text again), and the proof of equal ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_bench.rounds import interleaved, per_byte, ratios
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer.corpus import Corpus
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES
from lm_bench.tokenizer.workers import Side, Worker, WorkerError, workers

CHUNK = 1 << 24
"""Ids compared at once."""


@dataclass(frozen=True)
class Encoding:
    """One library with a number of threads on one corpus."""

    corpus: str
    library: str
    threads: int
    size: int
    """Bytes encoded in each round."""
    cold_mb_per_second: Quartiles
    warm_mb_per_second: Quartiles
    cold_ratio: Quartiles | None
    """Time per byte, reference / this; below 1 the reference is faster."""
    warm_ratio: Quartiles | None


@dataclass(frozen=True)
class SameIds:
    """Whether a library's ids of the whole corpus are those of the reference."""

    corpus: str
    library: str
    threads: int
    tokens: int
    difference: str
    """Where they first differ, or why there are none; "" where all are equal."""


def measure(
    names: Sequence[str], corpus: Corpus, models: Models, threads: Sequence[int], rounds: int
) -> tuple[list[Encoding], list[SameIds]]:
    """Prove, then time. The first of `names` is the reference; a library that fails is in the proof alone."""
    sides = [Side(name, count) for name in names for count in threads]
    # A slow library gives each thread whole pieces, so one proof is enough, and all of them take minutes.
    proofs = prove(
        [side for side in sides if side.threads == max(threads) or not LIBRARIES[side.library].slow], corpus, models
    )
    failed = {proof.library for proof in proofs if not proof.tokens}
    sides = [side for side in sides if side.library not in failed]
    with workers(sides, models) as all_workers:
        for worker in all_workers.values():
            worker.ask("warm_up", path=str(corpus.warmup))

        def block(side: Side) -> tuple[float, float]:
            path = str(corpus.of(side.library))
            cold, warm = (all_workers[side].ask("encode", path=path, fresh=fresh)["seconds"] for fresh in (True, False))
            return cold, warm

        rounds_of = interleaved(sides, rounds, block)
    cold, warm = (_ns_per_byte(rounds_of, corpus, i) for i in (0, 1))
    results = [
        Encoding(
            corpus.name,
            *side,
            corpus.of(side.library).stat().st_size,
            speed(cold[side]),
            speed(warm[side]),
            ratios(cold[side], _reference(cold, side, names[0])),
            ratios(warm[side], _reference(warm, side, names[0])),
        )
        for side in sides
    ]
    return results, proofs


def _ns_per_byte(rounds_of: dict[Side, list[tuple[float, float]]], corpus: Corpus, i: int) -> dict[Side, list[float]]:
    return {
        side: per_byte([pair[i] for pair in pairs], corpus.of(side.library).stat().st_size)
        for side, pairs in rounds_of.items()
    }


def _reference(samples: dict[Side, list[float]], side: Side, name: str) -> list[float] | None:
    """The reference's sample with as many threads; None for the reference itself."""
    return None if side.library == name else samples.get(Side(name, side.threads))


def speed(ns_per_byte: Sequence[float]) -> Quartiles:
    """MB (a million bytes) per second."""
    return Quartiles.of([1e3 / ns for ns in ns_per_byte])


def prove(sides: Sequence[Side], corpus: Corpus, models: Models) -> list[SameIds]:
    """Encode the whole corpus with each side, and compare with the first; one at a time, for some take gigabytes.

    A library with a split of its own has nothing to compare, and encodes what it is timed on.
    """
    proofs = []
    expected: np.ndarray | None = None
    for side in sides:
        path = corpus.folder / f"{side.library}-{side.threads}.npy"
        try:
            with Worker(side, models) as worker:
                worker.ask("warm_up", path=str(corpus.warmup))
                text = corpus.path if LIBRARIES[side.library].gpt2 else corpus.of(side.library)
                worker.ask("save_ids", path=str(text), out=str(path))
        except WorkerError as error:
            proofs.append(SameIds(corpus.name, *side, 0, str(error)))
            continue
        ids = np.load(path)
        path.unlink()
        difference = ""
        if LIBRARIES[side.library].gpt2:
            expected = ids if expected is None else expected
            difference = first_difference(expected, ids)
        proofs.append(SameIds(corpus.name, *side, len(ids), difference))
    return proofs


def first_difference(expected: np.ndarray, ids: np.ndarray) -> str:
    """Where two arrays of ids first differ, in words; "" where they are equal."""
    common = min(len(expected), len(ids))
    for start in range(0, common, CHUNK):
        end = min(start + CHUNK, common)
        different = np.flatnonzero(expected[start:end] != ids[start:end])
        if len(different):
            at = start + int(different[0])
            return f"token {at:,} is {ids[at]} and not {expected[at]}"
    return "" if len(expected) == len(ids) else f"{len(ids):,} tokens and not {len(expected):,}"
