"""Offsets of tokens: Hugging Face's in characters, and in bytes a partition of the text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import SpecialTokenError, Tokenizer, formats
from lm_tokenizer.surrogates import joined
from lm_tokenizer.vocab import Vocabulary, with_special_tokens

PARTS = [" the", "The", "'s", "12345", "  ", "\n", "\u00e9", "\u65e5\u672c", "\U0001f600", "<|é|>", "e\u0301", "\u00a0"]
ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), ANY), max_size=15).map("".join)


@pytest.fixture(scope="module")
def tokenizer(plain: Vocabulary) -> Tokenizer:
    return Tokenizer(with_special_tokens(plain.tokens, plain.merges, ["<|é|>"], "gpt2"))


@pytest.fixture(scope="module")
def peer(tokenizer: Tokenizer) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(formats.huggingface.contents(tokenizer.vocabulary))))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_offsets_are_hugging_faces_and_bytes_are_all_of_the_text(tokenizer: Tokenizer, peer: Any, text: str) -> None:
    expected = peer.encode(text)
    ids, offsets = tokenizer.encode_with_offsets(text, allowed_special="all")
    assert ids.tolist() == expected.ids
    assert list(map(tuple, offsets.tolist())) == expected.offsets
    data = text.encode()
    for given_as in (text, data):
        ids, offsets = tokenizer.encode_with_offsets(given_as, "byte", allowed_special="all")
        tokens = [data[start:end] for start, end in offsets.tolist()]
        assert tokens == [tokenizer.vocabulary.tokens[i] for i in ids]
        assert b"".join(tokens) == data
    assert tokenizer.encode_with_offsets(data, allowed_special="all")[1].tolist() == [list(o) for o in expected.offsets]


def test_tokens_of_one_character_have_its_offsets(tokenizer: Tokenizer) -> None:
    ids, offsets = tokenizer.encode_with_offsets("a\U0001f6f8b")
    assert len(ids) > 3
    assert offsets.tolist() == [[0, 1], *[[1, 2]] * (len(ids) - 2), [2, 3]]
    assert tokenizer.encode_with_offsets("")[1].shape == (0, 2)


def test_a_surrogate_pair_has_two_places(tokenizer: Tokenizer) -> None:
    for text in ("a\ud83d\udef8b\U0001f6f8", "\ud83d\ude00 the"):
        _, offsets = tokenizer.encode_with_offsets(text)
        assert offsets[0, 0] == 0
        assert offsets[-1, 1] == len(text)
        parts = {joined(text[start:end]) for start, end in offsets.tolist()}
        assert parts <= {"a", "b", "\U0001f6f8", "\U0001f600", " the"}


def test_special_tokens_are_the_callers_choice(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_with_offsets("é<|é|>", allowed_special="all")[1].tolist()[-1] == [1, 6]
    with pytest.raises(SpecialTokenError):
        tokenizer.encode_with_offsets("é<|é|>")
