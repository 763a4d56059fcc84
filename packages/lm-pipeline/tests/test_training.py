"""What a run has of its tokenizer: the sample of itself, the bytes of its text, and what can be done with it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from shlex import split
from typing import Any, cast

import numpy as np
import pytest

from lm_core.backend import Trainer
from lm_core.config import ModelConfig, SamplingConfig
from lm_core.data.batches import Batch
from lm_pipeline.training import bytes_of_targets, next_steps, sample_of
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import train_tokenizer

PROMPT, REST = "the quick", " brown fox"


class Saying:
    """A trainer whose model says certain ids, and keeps what it is asked with."""

    ids_per_call = 1

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids, self.asked = list(ids), dict[str, Any]()

    def decoder(self, rows: int, vocab_size: int) -> "Saying":
        self.asked |= {"rows": rows, "vocab_size": vocab_size}
        return self

    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int]) -> None:
        self.asked |= {"prompt": list(ids)}

    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        self.asked.setdefault("uniforms", []).extend(uniforms[0])
        self.asked["top_k"] = sampling.top_k
        return [[self.ids.pop(0)]]

    def room(self, row: int) -> int:
        return 1


def test_a_sample_is_the_prompt_and_what_the_model_says_up_to_the_end_of_the_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_id is not None
    ids = tokenizer.encode(PROMPT)
    saying = Saying([*tokenizer.encode(REST), tokenizer.eos_id, 1, 1])
    sample = sample_of(tokenizer, 64, ids, 50, lambda step: step, sampling=SamplingConfig(top_k=10_000), text=PROMPT)
    assert sample is not None
    assert sample.text(cast("Trainer", saying), 3) == PROMPT + REST
    assert saying.ids == [1, 1]
    asked = {key: saying.asked[key] for key in ("rows", "vocab_size", "prompt", "top_k")}
    assert asked == {"rows": 1, "vocab_size": 300, "prompt": ids, "top_k": 300}
    assert (sample.heading, sample.at_saves) == ("temperature 1", False)


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_a_sample_has_so_many_tokens_at_most(tokenizer: Tokenizer, tokens: int) -> None:
    ids = tokenizer.encode(REST * 9)
    sample = sample_of(tokenizer, 64, ids[:1], tokens, lambda _: 0)
    if not tokens:
        assert sample is None
        return
    assert sample is not None
    assert sample.text(cast("Trainer", Saying(ids)), 1) == tokenizer.decode(ids[:tokens])


def test_the_seed_is_that_of_the_step(tokenizer: Tokenizer) -> None:
    drawn = []
    for step in (1, 1, 2):
        saying = Saying(tokenizer.encode(REST * 9))
        sample = sample_of(tokenizer, 64, [1], 2, lambda step: step)
        assert sample is not None
        sample.text(cast("Trainer", saying), step)
        drawn.append(saying.asked["uniforms"])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_the_end_of_a_line_of_words_ends_no_sample() -> None:
    words = train_tokenizer("words", ["the quick brown fox"])
    sample = sample_of(words, 8, words.encode("the"), 3, lambda _: 0, text="the")
    assert sample is not None
    assert sample.text(cast("Trainer", Saying(words.encode("fox\nfox"))), 1) == "the fox \nfox "


def test_bytes_of_targets_are_those_of_the_text_without_special_tokens(tokenizer: Tokenizer) -> None:
    ids = np.array([[*tokenizer.encode("naïve 東京"), tokenizer.eos_id]], dtype=np.int32)
    assert bytes_of_targets(tokenizer)(Batch(ids, ids)) == len("naïve 東京".encode())


def test_the_next_steps_name_the_folder_as_a_shell_takes_it(tokenizer: Tokenizer) -> None:
    model, folder = ModelConfig(vocab_size=300, seq_len=4), Path("runs/it's mine")
    commands = [split(line.partition(":")[2]) for line in next_steps(model, tokenizer)(folder)]
    assert [words[2] for words in commands[:2]] == ["transformerlm-infer", "transformerlm-export"]
    assert all("runs/it's mine" in words for words in commands[:2])
    biased, words = model.model_copy(update={"head_bias": True}), train_tokenizer("words", ["a b"])
    for other, kept in ((biased, tokenizer), (model, words)):
        assert not [line for line in next_steps(other, kept)(folder) if "export" in line], "nobody could read it"
