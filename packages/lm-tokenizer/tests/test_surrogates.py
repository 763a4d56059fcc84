"""A surrogate pair in a `str` is the character that it stands for, wherever a text enters; a lone one is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer import SpecialTokenError, Tokenizer, TokenizerError, reference
from lm_tokenizer.adapters import train_tokenizer
from lm_tokenizer.surrogates import joined, place_in

TEXT = "a 👍 and 𐐀𐐁 😀, then 東京 👍 again <|😀|> x"
SPECIAL = "<|😀|>"


def in_pairs(text: str) -> str:
    """The text as JavaScript has it, in UTF-16 units."""
    units = text.encode("utf-16-le")
    return "".join(chr(int.from_bytes(units[i : i + 2], "little")) for i in range(0, len(units), 2))


PAIRS = in_pairs(TEXT)


@pytest.fixture(scope="module", params=["gpt2", "cl100k", r"\p{L}+|[^\p{L}]"])
def learned(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train([TEXT * 3], 290, [SPECIAL], request.param, progress=False)


@pytest.fixture(params=["readable", "compiled"])
def tokenizer(request: pytest.FixtureRequest, learned: Tokenizer) -> Tokenizer:
    made = Tokenizer(learned.vocabulary)
    if request.param == "compiled":
        made._is_small = lambda size: False  # type: ignore[method-assign]
    return made


def test_pairs_give_the_ids_of_their_characters(tokenizer: Tokenizer) -> None:
    for copies in (1, 30):  # of fewer and of more characters than the readable path's shortest way takes
        expected = tokenizer.encode(TEXT * copies, allowed_special="all")
        assert tokenizer.encode(PAIRS * copies, allowed_special="all") == expected
        assert tokenizer.encode(PAIRS * copies, allowed_special={in_pairs(SPECIAL)}) == expected
        batch = tokenizer.encode_batch([PAIRS * copies, TEXT * copies, "a"], allowed_special="all")
        assert [part.tolist() for part in batch[:2]] == [expected] * 2
        assert tokenizer.encode(PAIRS[:3], errors="replace") == tokenizer.encode(PAIRS[:2] + "\ufffd", errors="replace")
    assert tokenizer.encode(PAIRS, disallowed_special=()) == reference.encode(TEXT, tokenizer.vocabulary)
    assert reference.encode(PAIRS, tokenizer.vocabulary) == reference.encode(TEXT, tokenizer.vocabulary)


def test_a_pair_alone_is_tiktokens(learned: Tokenizer) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from lm_tokenizer.pretokenize import expression_of

    vocabulary = learned.vocabulary
    peer = tiktoken.Encoding("x", pat_str=expression_of(vocabulary.pattern), mergeable_ranks=vocabulary.id_of_bytes,
                             special_tokens=learned.special_tokens)  # fmt: skip
    assert learned.encode("\ud83d\udc4d") == peer.encode("\ud83d\udc4d") == learned.encode("👍")
    assert learned.encode(PAIRS, allowed_special="all") == peer.encode(PAIRS, allowed_special="all")


def test_places_are_those_of_the_text_that_was_given(tokenizer: Tokenizer) -> None:
    for text, error, says in (
        (PAIRS, SpecialTokenError, f"at character {PAIRS.index(in_pairs(SPECIAL))}:"),
        ("👍 \ud83d\udc4d \udc4d", TokenizerError, r"lone surrogate U\+DC4D at character 5"),
        ("\ud83d\ud83d\udc4d", TokenizerError, r"lone surrogate U\+D83D at character 0"),
    ):
        with pytest.raises(error, match=says):
            tokenizer.encode(text)
        with pytest.raises(error, match=f"text 1: .*{says}"):
            tokenizer.encode_batch(["👍", text])


def test_a_pair_may_be_spread_over_two_texts_of_a_stream(learned: Tokenizer) -> None:
    for parts in (list(PAIRS), [PAIRS[:3], "", PAIRS[3:]]):
        assert list(learned.encode_iterable(parts, allowed_special="all")) == learned.encode(
            TEXT, allowed_special="all"
        )
    with pytest.raises(TokenizerError, match=r"U\+D83D"):
        list(learned.encode_iterable(["a", "\ud83d"]))


def test_training_counts_characters(learned: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, size = learned.vocabulary.pattern, learned.vocab_size
    again = Tokenizer.train([PAIRS * 3], size, [in_pairs(SPECIAL)], pattern, progress=False)
    assert again.fingerprint == learned.fingerprint
    assert reference.train([PAIRS], 300, pattern) == reference.train([TEXT], 300, pattern)
    monkeypatch.setattr("lm_tokenizer.corpus.UNIT", 40)
    in_parts = Tokenizer.train([PAIRS * 3], size, [SPECIAL], pattern, progress=False)
    assert in_parts.fingerprint == learned.fingerprint


@pytest.mark.parametrize("kind", ["characters", "words", "sentencepiece"])
def test_tokenizers_of_other_kinds_join_pairs_too(kind: str, tmp_path: Path) -> None:
    if kind == "sentencepiece":
        pytest.importorskip(kind)
    size = 330 if kind == "sentencepiece" else None
    tokenizer = train_tokenizer(kind, [PAIRS * 20], size, ["<|é|>"])
    assert tokenizer.fingerprint == train_tokenizer(kind, [TEXT * 20], size, ["<|é|>"]).fingerprint
    assert tokenizer.encode(PAIRS) == tokenizer.encode(TEXT)
    if kind != "words":
        assert tokenizer.decode(tokenizer.encode(PAIRS)) == TEXT
        with pytest.raises(SpecialTokenError, match="at character 2:"):
            tokenizer.encode("\ud83d\udc4d<|é|>")


@given(st.lists(st.sampled_from(["a", "é", "\ud83d", "\udc4d", "👍", "\ud800", "東"])).map("".join))
def test_joining_is_utf16s(text: str) -> None:
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert joined(text) == expected
    assert joined(expected) == expected
    for place, character in enumerate(expected):
        at = place_in(text, place)
        assert joined(text[at:])[0] == character
        assert joined(text[:at]) == expected[:place]
