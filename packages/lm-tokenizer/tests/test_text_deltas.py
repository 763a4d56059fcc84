"""Text out of ids one at a time, for tokenizers of every kind."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import TextTokenizer, train_tokenizer
from lm_tokenizer.text_deltas import DecodedAgain, text_deltas_of


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a naïve fox and a lazy dog in 東京 \U0001f600\n" * 50], 290, progress=False)


def test_an_incomplete_character_waits_and_all_pieces_are_the_text(tokenizer: Tokenizer) -> None:
    text = "naïve 東京 \U0001f600 fox 叫"  # the last character is in no merge: three ids
    ids = tokenizer.encode(text)
    deltas = text_deltas_of(tokenizer, [1], "!")
    out = [deltas.feed(token_id) for token_id in ids]
    assert "".join(out) + deltas.finish() == text
    assert not any("�" in delta for delta in out)
    assert "" in out


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_a_tokenizer_of_another_kind_gives_its_text_in_pieces_too(kind: str) -> None:
    text = "a fox and a dog\nand a fox\n" * 5
    tokenizer = train_tokenizer(kind, [text])
    ids = [int(i) for i in tokenizer.encode(text)]
    deltas = text_deltas_of(tokenizer, ids[:10], tokenizer.decode(ids[:10]))
    assert isinstance(deltas, DecodedAgain)
    assert (
        "".join(map(deltas.feed, ids[10:])) + deltas.finish()
        == tokenizer.decode(ids)[len(tokenizer.decode(ids[:10])) :]
    )


def test_a_character_in_three_ids_waits_where_texts_are_decoded_as_a_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a 叫 b")
    deltas = DecodedAgain(tokenizer, tokenizer.encode("before"), "before")
    assert "".join(map(deltas.feed, ids)) == "a 叫 b"


WORDS = train_tokenizer("words", ["the company was strapped for cash"])
WHITE = st.sampled_from(["", " ", "  ", "\n", " \n ", "\t"])


@given(st.lists(st.tuples(st.sampled_from(["the", "company", "was"]), WHITE), min_size=1), st.data())
def test_a_prompt_and_its_continuation_are_one_text_of_words(words: list[tuple[str, str]], data: st.DataObject) -> None:
    prompt = "".join(word + (white or " ") for word, white in words[:-1]) + "".join(words[-1])
    following = data.draw(st.lists(st.integers(0, WORDS.vocab_size - 1), min_size=1))
    ids = WORDS.encode(prompt)
    assert WORDS.encode(prompt + continued(WORDS, prompt, following)) == ids + following


def continued(tokenizer: TextTokenizer, prompt: str, ids: list[int]) -> str:
    deltas = text_deltas_of(tokenizer, tokenizer.encode(prompt) or [1], prompt)
    return "".join(map(deltas.feed, ids)) + deltas.finish()


def test_a_continuation_does_not_repeat_a_space_and_a_prompt_that_is_not_shown_takes_none() -> None:
    strapped = WORDS.encode("strapped")
    for prompt, text in (("the company", " strapped "), ("the company ", "strapped "), ("", "strapped ")):
        assert continued(WORDS, prompt, strapped) == text


@pytest.mark.parametrize("prompt", ["the company", "the company ", "the company  "])
def test_a_tokenizer_that_drops_the_last_space_is_continued_with_one(prompt: str) -> None:
    tokenizers: Any = pytest.importorskip("tokenizers")
    from lm_tokenizer.adapters.huggingface import HuggingFaceTokenizer

    peer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "company": 1, "strapped": 2}, unk_token="the"))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    assert (
        prompt + continued(HuggingFaceTokenizer(peer), prompt, [2]) == f"{prompt.rstrip()}{prompt[11:] or ' '}strapped"
    )
