"""The measurement of `lm-bench tokenizer`: which parts, for which libraries, on which corpora."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lm_bench.flags import TokenizerFlags
from lm_bench.tokenizer import corpus as corpora
from lm_bench.tokenizer import decoding, encoding, gpt2, scaling, starting, training
from lm_bench.tokenizer.corpus import Corpus
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES, OURS, installed
from lm_bench.tokenizer.workers import WorkerError
from lm_core.errors import UserError


@dataclass
class Results:
    """All that was measured."""

    reference: str
    """The library that ratios are against: ours where it is installed."""
    missing: list[str]
    """Libraries that were asked for and are not installed."""
    failed: list[str] = field(default_factory=list)
    """Parts that ended because a library failed, and how."""
    train: list[training.Training] = field(default_factory=list)
    encode: list[encoding.Encoding] = field(default_factory=list)
    same_ids: list[encoding.SameIds] = field(default_factory=list)
    decode: list[decoding.Decoding] = field(default_factory=list)
    start: list[starting.Start] = field(default_factory=list)
    linear: list[scaling.Scaling] = field(default_factory=list)
    pathological: list[scaling.Scaling] = field(default_factory=list)


def measure(flags: TokenizerFlags, say: Callable[[str], None]) -> Results:
    """Measure what the flags ask for.

    Raises:
        UserError: when a corpus or a file of GPT-2 is missing, or no library is installed.
    """
    if not flags.corpora:
        raise UserError("no corpus: name text files with --corpora")
    names, missing = chosen(flags)
    results = Results(names[0], missing)
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as folder:
        models = Models("", "")
        if set(flags.parts) != {"train"}:
            if not (flags.vocab_json and flags.merges):
                raise UserError("GPT-2's files are needed for all but training: --vocab_json FILE --merges FILE")
            models = gpt2.convert(flags.vocab_json, flags.merges, Path(folder))
        for i, path in enumerate(flags.corpora):
            with tempfile.TemporaryDirectory(dir=folder) as own:
                _measure_corpus(
                    flags, corpora.cut(path, flags.slow_size, Path(own)), models, results, names, i == 0, say
                )
    return results


def chosen(flags: TokenizerFlags) -> tuple[list[str], list[str]]:
    """The libraries to measure, ours first, and those that are not installed.

    Raises:
        UserError: when none is left.
    """
    asked = [OURS, *(name for name in LIBRARIES if name in flags.peers)]
    names = [name for name in asked if installed(name)]
    if not names:
        raise UserError("none of the libraries is installed")
    return names, [name for name in asked if name not in names]


def _measure_corpus(
    flags: TokenizerFlags,
    corpus: Corpus,
    models: Models,
    results: Results,
    names: Sequence[str],
    first: bool,
    say: Callable[[str], None],
) -> None:
    rounds = flags.rounds
    encoders = [name for name in names if LIBRARIES[name].encodes]
    gpt2_encoders = [name for name in encoders if LIBRARIES[name].gpt2]
    quick = [name for name in encoders if not LIBRARIES[name].slow]

    @contextmanager
    def part(title: str) -> Iterator[None]:
        say(f"{title} ...")
        try:
            yield
        except WorkerError as error:
            results.failed.append(f"{title}: {error}")

    if "train" in flags.parts:
        with part(f"train: {corpus.name}"):
            trainers = [name for name in names if LIBRARIES[name].trains]
            size, timeout = flags.train_size, flags.train_timeout
            results.train += training.measure(trainers, corpus, max(flags.threads), size, flags.train_rounds, timeout)
    if {"encode", "decode"} & set(flags.parts) and "sentencepiece" in encoders:
        encoders.remove("sentencepiece")
        with part(f"sentencepiece's own model: {corpus.name}"):
            models = corpora.own_model(corpus, models, flags.train_size, flags.train_timeout)
            encoders.append("sentencepiece")
    if "encode" in flags.parts:
        with part(f"encode: {corpus.name}"):
            speeds, proofs = encoding.measure(encoders, corpus, models, flags.threads, rounds)
            results.encode += speeds
            results.same_ids += proofs
    if "decode" in flags.parts:
        with part(f"decode: {corpus.name}"):
            results.decode += decoding.measure(encoders, corpus, models, rounds)
    if "start" in flags.parts and first:
        with part("start"):
            results.start += starting.measure(gpt2_encoders, corpus, models, rounds)
    if "linear" in flags.parts and quick:
        with part(f"linear: {corpus.name}"):
            results.linear += scaling.measure_linear(quick, corpus, models, rounds)
    if "pathological" in flags.parts and first and quick:
        with part("pathological"):
            results.pathological += scaling.measure_pathological(quick, corpus, models, rounds)
