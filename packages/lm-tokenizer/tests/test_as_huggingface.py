"""The face of transformers, held against transformers: what a call returns, decoding, padding, the vocabulary."""

import pickle
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import Tokenizer, TokenizerError, formats
from lm_tokenizer.vocab import Vocabulary, with_special_tokens

pytest.importorskip("transformers")
END = "<|endoftext|>"
SPECIAL = [END, "<|im_start|>"]
PARTS = [" the", "The", "'s", "12345", "  ", "\n", "\u00e9", "\u65e5\u672c", "\U0001f600", *SPECIAL, "the"]
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), st.characters(exclude_categories=["Cs"])), max_size=8).map("".join)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([True, False, "longest_first", "do_not_truncate"]),
        "max_length": st.integers(1, 9),
        "pad_to_multiple_of": st.just(4),
        "return_offsets_mapping": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_attention_mask": st.booleans(),
        "return_length": st.booleans(),
        "add_special_tokens": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def learned(plain: Vocabulary) -> Tokenizer:
    return Tokenizer(with_special_tokens(plain.tokens, plain.merges, SPECIAL, "gpt2"))


@pytest.fixture(scope="module")
def folder(learned: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    formats.save(learned.vocabulary, path)
    return path


@pytest.fixture(scope="module", params=["right", "left"])
def pair(request: pytest.FixtureRequest, learned: Tokenizer, folder: Path) -> tuple[Any, Any]:
    """Our face and transformers' tokenizer, which pad and cut on a side."""
    transformers: Any = import_module("transformers")
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=END)
    ours = learned.as_huggingface()
    for face in (ours, peer):
        face.pad_token = face.eos_token
        face.padding_side = face.truncation_side = request.param
    return ours, peer


@settings(max_examples=60, deadline=None)
@given(texts=st.one_of(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), options=OPTIONS)
@pytest.mark.filterwarnings("ignore")
def test_a_call_is_transformers(pair: tuple[Any, Any], texts: Any, options: dict[str, Any]) -> None:
    ours, peer = pair
    try:
        expected = peer(texts, **options)
    except ValueError:
        with pytest.raises(ValueError, match="multiple"):
            ours(texts, **options)
        return
    found = ours(texts, **options)
    assert dict(found) == dict(expected)
    assert found.input_ids == expected.input_ids
    if isinstance(texts, str):
        plain = {name: value for name, value in options.items() if not name.startswith("return")}
        assert ours.encode(texts, **plain) == peer.encode(texts, **plain)
        assert ours.tokenize(texts) == peer.tokenize(texts)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 420), max_size=8), skip=st.booleans())
def test_decoding_is_transformers(pair: tuple[Any, Any], ids: list[int], skip: bool) -> None:
    for form in (ids, np.array(ids, np.int64), [ids, ids], ids[0] if ids else []):
        results = [face.decode(form, skip_special_tokens=skip) for face in pair]
        assert results[0] == results[1]
    results = [
        [
            face.batch_decode([ids, []], skip_special_tokens=skip),
            face.convert_ids_to_tokens(ids, skip_special_tokens=skip),
            face.convert_tokens_to_string([name for name in face.convert_ids_to_tokens(ids) if name]),
        ]
        for face in pair
    ]
    assert results[0] == results[1]


NAMES = ("vocab_size", "all_special_tokens", "all_special_ids", "special_tokens_map", "eos_token", "eos_token_id",
         "pad_token", "pad_token_id", "bos_token", "bos_token_id", "unk_token", "unk_token_id", "model_max_length",
         "is_fast", "padding_side", "vocab")  # fmt: skip


def test_what_it_knows_is_transformers(pair: tuple[Any, Any]) -> None:
    ours, peer = pair
    for name in NAMES:
        assert getattr(ours, name) == getattr(peer, name), name
    assert len(ours) == len(peer)
    assert list(ours.model_input_names) == list(peer.model_input_names)
    assert ours.get_vocab() == peer.get_vocab()
    assert ours.get_added_vocab() == peer.get_added_vocab()
    tokens = ["a", "\u0120the", "no such token", END]
    assert ours.convert_tokens_to_ids(tokens) == peer.convert_tokens_to_ids(tokens)
    for token in tokens:
        assert ours.convert_tokens_to_ids(token) == peer.convert_tokens_to_ids(token)
    for wrong in ([-1], [0, -1]):
        for face in pair:
            with pytest.raises(OverflowError):
                face.decode(wrong)


def test_arrays_and_padding_by_itself_are_transformers(pair: tuple[Any, Any]) -> None:
    ours, peer = pair
    texts = ["the text", "the"]
    for kind in ("np", "pt"):
        if kind == "pt":
            pytest.importorskip("torch")
        found, expected = (face(texts, padding=True, return_tensors=kind) for face in pair)
        assert found.keys() == expected.keys()
        assert type(found.input_ids) is type(expected.input_ids)
        assert (found.input_ids == expected.input_ids).all()
        assert found.input_ids.dtype == expected.input_ids.dtype
    found, expected = (face("the text", return_tensors="np") for face in pair)
    assert found.input_ids.tolist() == expected.input_ids.tolist()
    rows = [{"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]}, {"input_ids": [4], "attention_mask": [1]}]
    for given_as in (rows, {"input_ids": [[1, 2, 3], [4]]}, {"input_ids": [1, 2]}):
        assert dict(ours.pad(given_as)) == dict(peer.pad(given_as))
        assert dict(ours.pad(given_as, padding="max_length", max_length=5)) == dict(
            peer.pad(given_as, padding="max_length", max_length=5)
        )


def test_transformers_loads_what_it_saves(pair: tuple[Any, Any], tmp_path: Path) -> None:
    ours, _ = pair
    ours.model_max_length = 128
    ours.save_pretrained(tmp_path)
    again = import_module("transformers").AutoTokenizer.from_pretrained(str(tmp_path))
    assert (again.eos_token, again.pad_token, again.model_max_length) == (END, END, 128)
    assert again.encode("the text" + END) == ours.encode("the text" + END)
    assert Tokenizer.load(tmp_path).fingerprint == ours._tokenizer.fingerprint


def test_mistakes_are_one_line(learned: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    face = learned.as_huggingface()
    assert face([])["input_ids"] == []
    monkeypatch.setitem(sys.modules, "torch", None)  # type: ignore[arg-type]
    mistakes: list[tuple[Any, str]] = [
        (lambda: face(["a", "the text"], padding=True), "there is no pad_token to pad with"),
        (lambda: face(["a", "the text"], return_tensors="np"), "input_ids has rows of unequal length"),
        (lambda: face("a", return_tensors="tf"), "return_tensors 'tf'"),
        (lambda: face("a", return_tensors="pt"), "needs torch"),
        (lambda: face("a", padding="widest"), "padding 'widest'"),
        (lambda: face("a\ud800"), "lone surrogate"),
        (lambda: setattr(face, "pad_token", "no such token"), "pad_token: there is no token 'no such token'"),
        (lambda: setattr(face, "pad_token_id", 10**6), "pad_token_id: there is no token 1000000"),
    ]
    for call, says in mistakes:
        with pytest.raises(TokenizerError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(AttributeError, match="no 'no_such_thing'"):
        _ = face.no_such_thing
    face.pad_token_id = 3
    assert pickle.loads(pickle.dumps(face)).pad_token == face.convert_ids_to_tokens(3)
