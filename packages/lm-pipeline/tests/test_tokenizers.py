"""Any tokenizer serves, and texts are cut only where that changes no id."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_pipeline.tokens.tokenizers import OneByOne, cutter_of, load_tokenizer
from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import train_tokenizer

SPECIAL = ["<|endoftext|>", "<| end of text |>", "of the", "e\nx"]

WORDS = [*SPECIAL, " ", "  ", "\n", "\r\n", "of", "the", "e", "1", "é", "東", "'s", "\u3000"]


@pytest.fixture(scope="module")
def spaced() -> Tokenizer:
    """A tokenizer with special tokens that hold white space."""
    return Tokenizer.train(["the end of text, or of the \n\n naïve text  東京 of"], 280, SPECIAL, progress=False)


@given(st.lists(st.sampled_from(WORDS)).map("".join))
def test_a_cut_changes_no_id(spaced: Tokenizer, text: str) -> None:
    cut = cutter_of(spaced)
    assert cut
    data = text.encode()
    end = cut(data)
    assert 0 <= end < max(1, len(data))
    parts = [data[:end].decode(), data[end:].decode()]
    for allowed in ((), "all"):
        options = {"allowed_special": allowed, "disallowed_special": ()}
        whole = spaced.encode(text, **options)  # type: ignore[arg-type]
        assert [i for part in parts for i in spaced.encode(part, **options)] == whole  # type: ignore[arg-type]


def test_the_cut_is_the_last_there_is(tokenizer: Tokenizer) -> None:
    cut = cutter_of(tokenizer)
    assert cut
    assert cut(b"one two three") == len(b"one two")
    assert cut(b"one" * 10_000) == 0


def test_a_pattern_of_ones_own_promises_nothing_and_an_adapter_neither(tmp_path: Path) -> None:
    assert cutter_of(Tokenizer.train(["some text"], 260, pattern="[a-z]+|[^a-z]+", progress=False)) is None
    train_tokenizer("characters", ["abc é"]).save(tmp_path)
    assert cutter_of(load_tokenizer(str(tmp_path))) is None


def test_any_other_tokenizer_encodes_batches_too(tmp_path: Path) -> None:
    train_tokenizer("characters", ["abc é"]).save(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert isinstance(tokenizer, OneByOne)
    found = tokenizer.encode_batch([b"ab", "c é"], threads=2)
    assert [ids.dtype for ids in found] == [tokenizer.dtype] * 2
    assert [len(ids) for ids in found] == [2, 3]
