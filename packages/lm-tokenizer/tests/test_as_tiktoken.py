"""The face of tiktoken, held against tiktoken: what it returns and what it raises."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import Tokenizer
from lm_tokenizer.pretokenize import expression_of
from lm_tokenizer.vocab import Vocabulary

tiktoken: Any = pytest.importorskip("tiktoken")
SPECIAL = ["<|endoftext|>", "<|a é|>"]
PARTS = [" the", "The", "'s", "12345", "  ", "\n", "é", "日本", "\U0001f600", *SPECIAL, "\ud83d", "\udc4d", "the"]
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), st.characters()), max_size=12).map("".join)
ALLOWED = st.one_of(st.just("all"), st.sets(st.sampled_from([*SPECIAL, "the"])))
DISALLOWED = st.one_of(st.just("all"), st.just(()), st.lists(st.sampled_from([*SPECIAL, "the"]), max_size=2))


@pytest.fixture(scope="module")
def pair(vocabulary: Vocabulary) -> tuple[Any, Any]:
    """Our face and tiktoken's encoding of one vocabulary."""
    peer = tiktoken.Encoding(
        "lm_tokenizer",
        pat_str=expression_of(vocabulary.pattern),
        mergeable_ranks=dict(vocabulary.id_of_bytes),
        special_tokens=dict(vocabulary.special_tokens),
    )
    return Tokenizer(vocabulary).as_tiktoken(), peer


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call returns, or the kind of error that a caller would catch."""
    try:
        return call(*arguments, **options)
    except ValueError as error:
        return UnicodeError if isinstance(error, UnicodeError) else ValueError
    except (KeyError, OverflowError):
        return KeyError


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, max_size=3), allowed=ALLOWED, disallowed=DISALLOWED)
def test_encoding_is_tiktokens(pair: tuple[Any, Any], texts: list[str], allowed: Any, disallowed: Any) -> None:
    choice = {"allowed_special": allowed, "disallowed_special": disallowed}
    ours, peer = pair
    for text in texts:
        assert outcome(ours.encode, text, **choice) == outcome(peer.encode, text, **choice)
        assert ours.encode_ordinary(text) == peer.encode_ordinary(text)
    assert outcome(ours.encode_batch, texts, **choice) == outcome(peer.encode_batch, texts, **choice)
    assert ours.encode_ordinary_batch(texts, num_threads=2) == peer.encode_ordinary_batch(texts)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 399), max_size=8), more=st.lists(st.integers(395, 410), max_size=2))
def test_decoding_is_tiktokens(pair: tuple[Any, Any], ids: list[int], more: list[int]) -> None:
    results = []
    for face in pair:
        found: list[Any] = [face.decode_batch([ids, []]), face.decode_bytes_batch([ids, []])]
        for each in (ids, ids + more):
            names = ("decode", "decode_bytes", "decode_tokens_bytes", "decode_with_offsets")
            found += [outcome(getattr(face, name), each) for name in names]
            found += [outcome(face.decode, each, errors=errors) for errors in ("strict", "ignore")]
        results.append(found)
    assert results[0] == results[1]


def test_what_it_knows_is_tiktokens(pair: tuple[Any, Any]) -> None:
    ours, peer = pair
    for name in (
        "name",
        "n_vocab",
        "max_token_value",
        "eot_token",
        "special_tokens_set",
        "_pat_str",
        "_special_tokens",
    ):
        assert getattr(ours, name) == getattr(peer, name), name
    assert ours._mergeable_ranks == peer._mergeable_ranks
    assert repr(ours) == repr(peer)
    assert ours.token_byte_values() == peer.token_byte_values()
    for token in range(peer.n_vocab):
        assert ours.is_special_token(token) == peer.is_special_token(token)
        assert ours.decode_single_token_bytes(token) == peer.decode_single_token_bytes(token)
        assert ours.encode_single_token(peer.decode_single_token_bytes(token)) == token
    for token in ("the", b"\xff", "<|endoftext|>", "no token", b"\xff\xfe"):
        assert outcome(ours.encode_single_token, token) == outcome(peer.encode_single_token, token)
    assert outcome(ours.decode, [-1]) is KeyError
    array = ours.encode_to_numpy("the<|endoftext|>", allowed_special="all")
    expected = peer.encode_to_numpy("the<|endoftext|>", allowed_special="all")
    assert (array.dtype, array.tolist()) == (expected.dtype, expected.tolist())


def test_an_encoding_with_more_special_tokens_is_made_of_it(pair: tuple[Any, Any]) -> None:
    """As tiktoken's documentation says to do."""
    ours, _ = pair
    more = tiktoken.Encoding(
        "more",
        pat_str=ours._pat_str,
        mergeable_ranks=ours._mergeable_ranks,
        special_tokens={**ours._special_tokens, "<|im_start|>": ours.n_vocab},
    )
    assert more.encode("the<|im_start|>", allowed_special="all") == [*ours.encode("the"), ours.n_vocab]


def test_it_is_pickled_and_needs_no_library(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    again = pickle.loads(pickle.dumps(pair[0]))
    assert again.encode("the text") == pair[0].encode("the text")
    with pytest.raises(ValueError, match="disallowed_special"):
        again.encode("<|endoftext|>")
