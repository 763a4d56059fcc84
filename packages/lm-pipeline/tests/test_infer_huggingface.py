"""Folders of `transformers`: what ends a text there, and what comes back from an export."""

import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from lm_core.config import ModelConfig
from lm_core.interchange.folder import export_model, import_model
from lm_core.model.init import initial_arrays
from lm_pipeline.commands import export, infer
from lm_pipeline.saved_model import load_model
from lm_tokenizer import Tokenizer

MODEL = ModelConfig(
    vocab_size=320, seq_len=8, d_model=8, n_layers=1, n_heads=1, norm="rms", mlp="swiglu", positions="rope", bias=False
)

Run = Callable[..., int]


class Told:
    """A backend that draws what it is told."""

    ids_per_call = 1
    name = "told"

    def __init__(self, ids: list[int]) -> None:
        self.ids = iter(ids)
        self.read: list[list[int]] = []

    def memory(self, step: object) -> None:
        return None

    def describe(self, step: object) -> str:
        return "told"

    def decoder(self, *_: object) -> "Told":
        return self

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.read.append(list(ids))

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: object) -> list[list[int]]:
        return [[next(self.ids)]]

    def room(self, row: int) -> int:
        return 1

    def keep(self, rows: Sequence[int]) -> None:
        pass


@pytest.fixture
def hugging_face(folder: Path, tokenizer: Tokenizer) -> Path:
    """A folder as other programs write it: padded, with a tokenizer, ended by two ids that are not the tokenizer's."""
    export_model(folder / "hf", MODEL, initial_arrays(MODEL, 1))
    tokenizer.save(folder / "hf")
    (folder / "hf" / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    return folder / "hf"


def test_a_text_ends_at_any_of_the_ids_that_the_model_s_files_name(hugging_face: Path, tokenizer: Tokenizer) -> None:
    assert load_model(str(hugging_face)).eos_ids == (7, 9)
    (hugging_face / "generation_config.json").unlink()
    assert load_model(str(hugging_face)).eos_ids == (tokenizer.eos_id,)


def test_an_export_of_it_keeps_what_ends_a_text_and_no_padding(
    hugging_face: Path, folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "--checkpoint", "hf", "--output", "again"])
    assert export.main() == 0
    model = import_model(folder / "again")
    assert (model.config.vocab_size, model.eos_ids) == (tokenizer.vocab_size, (7, 9))


def test_a_continuation_ends_at_each_of_them(
    hugging_face: Path, run_infer: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for end in (7, 9):
        monkeypatch.setattr(infer, "load_backend", lambda name, end=end: Told([5, end, 5, 5]))
        assert run_infer("--checkpoint", "hf", "--prompt", "a fox", "--output", "json") == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["text.end"], record["metrics.tokens"]) == ("end_of_text", 2)
        assert record["params.eos_token_id"] == [7, 9]
    told = Told([9])
    monkeypatch.setattr(infer, "load_backend", lambda name: told)
    assert run_infer("--checkpoint", "hf", "--prompt", "") == 0
    assert told.read == [[7]], "an empty prompt begins with what ends a text"
