"""Text out of ids one at a time, for tokenizers of every kind."""

import pytest

from lm_tokenizer import Tokenizer
from lm_tokenizer.adapters import train_tokenizer
from lm_tokenizer.pieces import DecodedAgain, pieces_of


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a naïve fox and a lazy dog in 東京 \U0001f600\n" * 50], 290, progress=False)


def test_an_incomplete_character_waits_and_all_pieces_are_the_text(tokenizer: Tokenizer) -> None:
    text = "naïve 東京 \U0001f600 fox 叫"  # the last character is in no merge: three ids
    ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, [1])
    out = [pieces.feed(token_id) for token_id in ids]
    assert "".join(out) + pieces.finish() == text
    assert not any("�" in piece for piece in out)
    assert "" in out


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_a_tokenizer_of_another_kind_gives_its_text_in_pieces_too(kind: str) -> None:
    text = "a fox and a dog\nand a fox\n" * 5
    tokenizer = train_tokenizer(kind, [text])
    ids = [int(i) for i in tokenizer.encode(text)]
    pieces = pieces_of(tokenizer, ids[:10])
    assert isinstance(pieces, DecodedAgain)
    assert (
        "".join(map(pieces.feed, ids[10:])) + pieces.finish()
        == tokenizer.decode(ids)[len(tokenizer.decode(ids[:10])) :]
    )


def test_a_character_in_three_ids_waits_where_texts_are_decoded_as_a_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a 叫 b")
    pieces = DecodedAgain(tokenizer, tokenizer.encode("before"))
    assert "".join(map(pieces.feed, ids)) == "a 叫 b"
