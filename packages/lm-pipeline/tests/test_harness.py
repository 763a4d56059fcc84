"""The model for lm-evaluation-harness over a stub of its interface; tests/test_lm_eval.py has the real one."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lm_core.backend import Marks
from lm_core.config import ModelConfig, SamplingConfig
from lm_core.data.batches import Batch
from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.reference import model as reference
from lm_pipeline.saved_model import SavedModel
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import train_tokenizer

MODEL = ModelConfig(vocab_size=304, seq_len=8, d_model=8, n_layers=1, n_heads=1, positions="rope", init_std=0.5)
NAME = "lm_pipeline.evaluation.harness"


class Base:
    """What `TemplateLM` has of its own, and the model uses."""

    @property
    def prefix_token_id(self) -> Any:
        return self.eot_token_id  # type: ignore[attr-defined]


def rolling(token_list: list[int], prefix_token: int, max_seq_len: int, context_len: int) -> Iterator[Any]:
    """Windows whose context overlaps with nothing, for texts of a whole number of windows."""
    assert context_len == 1
    for start in range(0, len(token_list), max_seq_len):
        before = token_list[start - 1] if start else prefix_token
        yield [before], token_list[start : start + max_seq_len]


class Told:
    """A backend with the reference's marks, whose decoder draws what it is told for every row."""

    ids_per_call = 1

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids, self.place = list(ids), 0
        self.read: list[list[int]] = []
        self.sampling: SamplingConfig | None = None

    def memory(self, step: object) -> None:
        return None

    def scorer(self, model: ModelConfig, step: object, weights: Any) -> "Told":
        self.model, self.weights = model, weights
        return self

    def marks(self, batch: Batch) -> Marks:
        return Marks.of(reference.token_marks(self.logits(batch.inputs), batch.targets))

    def logits(self, ids: Any) -> Any:
        return reference.logits(self.model, self.weights, np.asarray(ids))

    def decoder(self, rows: int, vocab_size: int) -> "Told":
        assert vocab_size == 300
        self.place, self.rows = 0, rows
        return self

    def prefill(self, row: int, ids: Sequence[int], seen: object) -> None:
        self.read.append(list(ids))

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        self.place, self.sampling = self.place + 1, sampling
        return [[self.ids[self.place - 1]] * len(uniforms[0])]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        pass


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, over the stub."""
    names = {"lm_eval": {"utils": None}, "lm_eval.api": {}, "lm_eval.api.model": {"TemplateLM": Base}}
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    utils = SimpleNamespace(get_rolling_token_windows=rolling, make_disjoint_window=lambda pair: pair)
    monkeypatch.setattr(sys.modules["lm_eval"], "utils", utils)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME, None)


def model_of(harness: Any, tokenizer: Any, backend: Told, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(harness, "load_backend", lambda name: backend)
    saved = SavedModel(MODEL, initial_arrays(MODEL, 0), tokenizer, "saved")
    return harness.HarnessModel(saved, batch_size=2)


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def nats(backend: Told, context: list[int], targets: list[int]) -> float:
    """Of targets that follow a context, one after the other."""
    row = [*context, *targets]
    losses = reference.token_losses(backend.logits([row[:-1]]), np.array([row[1:]]))
    return float(losses[0, -len(targets) :].sum())


def test_log_likelihoods_are_minus_the_nats(
    harness: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Told([])
    model = model_of(harness, tokenizer, backend, monkeypatch)
    assert backend.model.vocab_size == 300
    pairs = [([1, 2, 3], [4]), ([5], [6, 7])]
    found = model._loglikelihood_tokens([(("", ""), *pair) for pair in pairs], disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([-nats(backend, *pair) for pair in pairs], rel=1e-5)
    text = "The quick brown fox jumps over"
    ids = model.tok_encode(text)
    assert ids == tokenizer.encode(text)
    assert len(ids) > 8
    expected = nats(backend, [tokenizer.eos_id or 0], ids[:8])
    expected += sum(nats(backend, [ids[i - 1]], ids[i : i + 8]) for i in range(8, len(ids), 8))
    assert model.loglikelihood_rolling(requests((text,), (text,))) == pytest.approx([-expected] * 2, rel=1e-5)


def test_texts_end_by_the_task_s_strings_the_end_of_text_or_a_length_and_come_in_order(
    harness: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Told([*tokenizer.encode(" brown fox"), tokenizer.eos_id or 0])
    model = model_of(harness, tokenizer, backend, monkeypatch)
    asked = [
        ("the quick", {"until": ["\n"], "max_gen_toks": 6}),
        ("a", {"until": "fox", "max_gen_toks": 6}),
        ("", {"until": ["\n"], "max_gen_toks": 6}),
        ("lazy dog", {"until": ["", "\n"], "max_gen_toks": 1}),
    ]
    first = tokenizer.decode([backend.ids[0]])
    assert model.generate_until(requests(*asked)) == [" brown fox", " brown ", " brown fox", first]
    assert backend.sampling == SamplingConfig(temperature=0)
    assert [tokenizer.eos_id] in backend.read
    assert tokenizer.encode("the quick")[-2:] in backend.read  # what leaves room for six tokens of eight
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 1}
    model.generate_until(requests(("a", settings)))
    assert backend.sampling == SamplingConfig(temperature=0.7, top_p=0.9)


def test_a_tokenizer_without_an_end_of_text_is_refused(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no end-of-text token"):
        model_of(harness, train_tokenizer("characters", ["abc"]), Told([]), monkeypatch)


def test_a_harness_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    with pytest.raises(UserError, match=r"cannot be imported .*: pip install lm-eval"):
        importlib.import_module(NAME)
