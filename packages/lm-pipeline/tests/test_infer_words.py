"""transformerlm-infer with a tokenizer that keeps no white space: prompt and continuation are one text."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from lm_core.config import ModelConfig, SamplingConfig
from lm_pipeline.commands import infer
from lm_pipeline.saved_model import SavedModel
from lm_tokenizer.adapters import train_tokenizer

WORDS = train_tokenizer("words", ["the company strapped"])


class Strapped:
    """A backend that says one word and ends the line."""

    ids_per_call = 1
    name = "strapped"

    def memory(self, step: object) -> None:
        return None

    def describe(self, step: object) -> str:
        return ""

    def decoder(self, *arguments: object) -> "Strapped":
        self.ids = WORDS.encode("strapped\n")
        return self

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        pass

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        return [[self.ids.pop(0)]]

    def room(self, row: int) -> int:
        return 1


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
@pytest.mark.parametrize("prompt", ["the company", "the company "])
def test_words_are_spaced(
    run_infer: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prompt: str,
    flags: list[str],
) -> None:
    model = SavedModel(ModelConfig(vocab_size=WORDS.vocab_size, seq_len=8), {}, WORDS, "words")
    monkeypatch.setattr(infer, "load_model", lambda *_: model)
    backend: Any = Strapped()
    monkeypatch.setattr(infer, "load_backend", lambda _: backend)
    assert run_infer("--prompt", prompt, *flags) == 0
    assert capsys.readouterr().out == "the company strapped \n"
