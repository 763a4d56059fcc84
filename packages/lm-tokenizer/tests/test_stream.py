import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer import reference
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.stream import StreamDecoder
from lm_tokenizer.vocab import Vocabulary

BYTES = [bytes([byte]) for byte in range(256)]
# Bytes that come near UTF-8: leads of each length, continuations, overlong and surrogate leads, ASCII.
NEAR = st.lists(
    st.sampled_from([0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0x9F, 0xA0, 0xED, 0xF0, 0x98, 0x90, 0xF4, 0xFF])
)


@given(NEAR, st.lists(st.integers(0, 5)))
def test_the_deltas_joined_are_the_text_decoded_at_once(ids: list[int], cuts: list[int]) -> None:
    decoder, out, start = StreamDecoder(BYTES), "", 0
    for length in cuts:
        out += decoder.feed(ids[start : start + length])
        start += length
    out += "".join(decoder.feed(token_id) for token_id in ids[start:])
    assert out + decoder.finish() == bytes(ids).decode(errors="replace")


@given(NEAR)
def test_strict_refuses_what_decoding_at_once_refuses(ids: list[int]) -> None:
    decoder = StreamDecoder(BYTES, errors="strict")
    try:
        expected = bytes(ids).decode()
    except UnicodeDecodeError as error:
        with pytest.raises(TokenizerError, match=f"not UTF-8 at byte {error.start}: "):
            _ = [decoder.feed(token_id) for token_id in ids], decoder.finish()
    else:
        assert "".join(map(decoder.feed, ids)) + decoder.finish() == expected


def test_a_character_waits_for_its_last_byte() -> None:
    decoder = StreamDecoder(BYTES)
    assert [decoder.feed(byte) for byte in "a\U0001f600b".encode()] == ["a", "", "", "", "\U0001f600", "b"]
    assert decoder.finish() == ""


def test_an_unfinished_character_is_one_replacement_and_the_decoder_starts_anew() -> None:
    decoder = StreamDecoder(BYTES)
    assert decoder.feed([0xF0, 0x9F]) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.feed([0x61]) == "a"


def test_ids_of_numpy_and_of_iterators_are_taken(plain: Vocabulary, text: str) -> None:
    ids = reference.encode(text, plain)
    for stream in (np.array(ids, np.uint16), iter(ids)):
        decoder = StreamDecoder(plain.tokens)
        assert decoder.feed(stream) + decoder.finish() == text
    decoder = StreamDecoder(plain.tokens)
    assert "".join(decoder.feed(token_id) for token_id in np.array(ids)) == text


@pytest.mark.parametrize("wrong", [256, -1, 10**30])
def test_an_id_outside_the_vocabulary_is_named_and_nothing_is_lost(wrong: int) -> None:
    decoder = StreamDecoder(BYTES)
    decoder.feed([0x61, 0xC3])
    with pytest.raises(TokenizerError, match=rf"the id {wrong} at position 3 is outside .* 0 to 255"):
        decoder.feed([0xA9, wrong])
    assert decoder.feed(0xA9) == "\u00e9"
