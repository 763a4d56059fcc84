"""transformerlm-infer with a tokenizer that keeps no white space: prompt and continuation are one text."""

from collections.abc import Callable, Collection, Sequence
from itertools import cycle

import pytest

from lm_core.config import ModelConfig, SamplingConfig
from lm_pipeline.commands import infer
from lm_pipeline.saved_model import SavedModel
from lm_tokenizer.adapters import train_tokenizer

WORDS = train_tokenizer("words", ["the company strapped"])


class Strapped:
    """A backend that says a line of one word, again and again."""

    ids_per_call = 1
    name = "strapped"

    def memory(self, step: object) -> None:
        return None

    def describe(self, step: object) -> str:
        return ""

    def decoder(self, *arguments: object) -> "Strapped":
        self.ids = cycle(WORDS.encode("strapped\n"))
        return self

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.prompt = list(ids)

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        return [[next(self.ids)]]

    def room(self, row: int) -> int:
        return 1


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Strapped:
    model = SavedModel(ModelConfig(vocab_size=WORDS.vocab_size, seq_len=8), {}, WORDS, "words")
    monkeypatch.setattr(infer, "load_model", lambda *_, **__: model)
    backend = Strapped()
    monkeypatch.setattr(infer, "load_backend", lambda _: backend)
    return backend


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
@pytest.mark.parametrize("prompt", ["the company", "the company "])
def test_words_are_spaced(
    backend: Strapped, run_infer: Callable[..., int], capsys: pytest.CaptureFixture[str], prompt: str, flags: list[str]
) -> None:
    assert run_infer("--prompt", prompt, *flags, "--max_new_tokens", 1) == 0
    assert capsys.readouterr().out == "the company strapped \n"


def test_a_text_of_words_goes_on_past_the_end_of_a_line_unless_told_otherwise(
    backend: Strapped, run_infer: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_infer("--prompt", "the company", "--max_new_tokens", 3) == 0
    assert capsys.readouterr().out == "the company strapped \nstrapped \n"
    assert run_infer("--prompt", "the company", "--stop", "\n") == 0
    assert capsys.readouterr().out == "the company strapped \n"


def test_an_empty_prompt_is_the_beginning_of_a_line(
    backend: Strapped, run_infer: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_infer("--prompt", "", "--max_new_tokens", 1) == 0
    assert backend.prompt == [WORDS.eos_id]
    assert capsys.readouterr().out == "strapped \n"
