"""Prompts from what never ends are refused, not held; one that ends with a space is noted."""

import os
import sys
from pathlib import Path
from threading import Thread

import pytest

from lm_core.errors import UserError
from lm_pipeline.generation import prompts
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.generation.prompt import read_prompt
from lm_tokenizer.adapters import train_tokenizer


def test_a_pipe_of_prompts_is_read_and_what_is_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MOST_PROMPT_BYTES", 100)
    os.mkfifo(tmp_path / "pipe")
    config = InferConfig.parse({"prompts_file": str(tmp_path / "pipe")})
    for text in ("one\ntwo\n", "long " * 100):
        writer = Thread(target=(tmp_path / "pipe").write_text, args=(text,))
        writer.start()
        if len(text) < 100:
            assert prompts.read_prompts(config) == ["one", "two"]
        else:
            with pytest.raises(UserError, match="it has more than 100 bytes"):
                prompts.read_prompts(config)
        writer.join()


def test_a_standard_input_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MOST_PROMPT_BYTES", 100)
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(UserError, match="standard input has more than 100 characters"):
            prompts.read_prompts(InferConfig.parse({"prompt": ["-"]}))


@pytest.mark.parametrize(
    ("kind", "text", "noted"), [("bpe", "the ", True), ("bpe", "the", False), ("words", "a ", False)]
)
def test_a_prompt_that_ends_with_a_space_is_noted(kind: str, text: str, noted: bool) -> None:
    tokenizer = train_tokenizer(kind, ["the cat and a dog"], 262 if kind == "bpe" else None)
    notes: list[str] = []
    read_prompt(text, tokenizer, 8, notes.append)
    assert (
        notes
        == ["note: the prompt ends with a space, which the tokenizer joins to the word that follows: leave it out"]
        * noted
    )
    notes.clear()
    prompts.encode_prompts(["a", text], tokenizer, 8, None, notes.append)
    assert [note.split(",")[0] for note in notes] == ["note: prompt 2 ends with a space"] * noted
