"""Decoding: the ids of a corpus back to its text, and how long one short text takes to encode."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lm_bench.rounds import interleaved, per_byte, ratios
from lm_bench.statistics import Quartiles
from lm_bench.tokenizer.corpus import Corpus
from lm_bench.tokenizer.encoding import speed
from lm_bench.tokenizer.gpt2 import Models
from lm_bench.tokenizer.libraries import LIBRARIES
from lm_bench.tokenizer.workers import Side, Worker, WorkerError, workers


class Form(NamedTuple):
    """One side of the comparison: a library, and the form of its ids."""

    library: str
    takes: str


@dataclass(frozen=True)
class Decoding:
    """One library from one form of ids."""

    corpus: str
    library: str
    takes: str
    """"array" or "list"."""
    size: int
    """Bytes of text that each round gives."""
    mb_per_second: Quartiles
    ratio: Quartiles | None
    """Time per byte, reference / this; below 1 the reference is faster."""
    equal: bool
    """Whether the text is that which was encoded."""


def measure(names: Sequence[str], corpus: Corpus, models: Models, rounds: int) -> list[Decoding]:
    """Time each library from each form it takes; the first is the reference. One thread."""
    with workers([Side(name, 1) for name in names], models) as all_workers:
        forms = [Form(name, takes) for name in names for takes in LIBRARIES[name].takes]
        equal = {form: _prepare(all_workers[Side(form.library, 1)], form, corpus) for form in forms}

        def block(form: Form) -> float:
            worker = all_workers[Side(form.library, 1)]
            worker.ask("load_ids", path=_ids(corpus, form), takes=form.takes)
            return worker.ask("decode")["seconds"]

        seconds = interleaved(forms, rounds, block)
    sizes = {form: corpus.of(*form).stat().st_size for form in forms}
    ns = {form: per_byte(seconds[form], sizes[form]) for form in forms}
    return [
        Decoding(
            corpus.name,
            *form,
            sizes[form],
            speed(ns[form]),
            ratios(ns[form], None if form == forms[0] else ns[forms[0]]),
            equal[form],
        )
        for form in forms
    ]


def _ids(corpus: Corpus, form: Form) -> str:
    return str(corpus.folder / f"{form.library}-{form.takes}.npy")


def _prepare(worker: Worker, form: Form, corpus: Corpus) -> bool:
    """Write the library's own ids of what it will decode, and see whether they give the text back."""
    text = str(corpus.of(*form))
    worker.ask("warm_up", path=str(corpus.warmup))
    worker.ask("save_ids", path=text, out=_ids(corpus, form))
    worker.ask("load_ids", path=_ids(corpus, form), takes=form.takes)
    try:
        return bool(worker.ask("decode", expected=text)["equal"])
    except WorkerError:
        return False
