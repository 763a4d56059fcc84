"""A character vocabulary as Hugging Face's library reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer.adapters import train_tokenizer
from lm_tokenizer.adapters.characters import CharacterTokenizer

END = "<|endoftext|>"


@given(st.text("ab\u00e9\U0001f600\n \r", max_size=20))
def test_characters_are_the_same_in_hugging_face_s_library(text: str) -> None:
    tokenizer = train_tokenizer("characters", ["ba\u00e9\U0001f600\n \r"], None, [END])
    assert isinstance(tokenizer, CharacterTokenizer)
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_str(tokenizer.tokenizer_json().decode())
    assert theirs.encode(text).ids == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.encode(f"a{END}").ids == tokenizer.encode(f"a{END}", allowed_special="all")
