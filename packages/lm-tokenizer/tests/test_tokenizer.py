"""The face: what a user calls, with small inputs and large ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import SpecialTokenError, Tokenizer, TokenizerError, reference
from lm_tokenizer import tokenizer as module

TEXT = "The cat sat on the mat, and the dog's tail -- 12 inches! -- went\n\n  around. Schön! 猫は座った。🙂 " * 3
SPECIAL = ["<|endoftext|>", "<|end|>", "<|endo"]


@pytest.fixture(scope="module")
def vocabulary() -> reference.Vocabulary:
    return Tokenizer.train([TEXT], 350, SPECIAL, progress=False).vocabulary


@pytest.fixture(params=["readable", "compiled"])
def tokenizer(request: pytest.FixtureRequest, vocabulary: reference.Vocabulary) -> Tokenizer:
    made = Tokenizer(vocabulary)
    if request.param == "compiled":
        assert made._engine is not None
        made._is_small = lambda size: False  # type: ignore[method-assign]
    return made


def test_a_text_survives(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.decode_bytes(ids) == TEXT.encode()
    assert tokenizer.encode(TEXT.encode()) == ids
    assert sum(tokenizer.byte_lengths[ids]) == len(TEXT.encode())
    array = tokenizer.encode_array(TEXT)
    assert array.dtype == tokenizer.dtype == np.uint16
    assert array.tolist() == ids


def test_nothing_gives_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.encode_array("").shape == (0,)
    assert tokenizer.encode_batch([]) == []
    assert [part.tolist() for part in tokenizer.encode_batch(["", "a", ""])] == [[], tokenizer.encode("a"), []]
    assert tokenizer.decode([]) == ""
    assert list(tokenizer.encode_iterable([])) == []


def test_a_batch_is_its_texts(tokenizer: Tokenizer) -> None:
    texts = [TEXT[:n] for n in (0, 1, 50, 7, len(TEXT))]
    for threads in (1, 2, None):
        assert [part.tolist() for part in tokenizer.encode_batch(texts, threads)] == [*map(tokenizer.encode, texts)]


def test_special_tokens_are_refused_allowed_or_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.special_tokens
    text = "one<|endoftext|>two<|end|><|endo three"
    with pytest.raises(SpecialTokenError, match=r"'<\|endoftext\|>' at character 3") as refused:
        tokenizer.encode(text)
    assert (refused.value.token, refused.value.position) == ("<|endoftext|>", 3)
    with pytest.raises(SpecialTokenError, match=r"text 1: the text holds .* at character 5:"):
        tokenizer.encode_batch(["fine", "élan <|end|>"])
    with pytest.raises(SpecialTokenError, match=r"'<\|end\|>' at (byte 6|character 5)"):
        tokenizer.encode("élan <|end|>".encode())
    plain = tokenizer.encode
    expected = [*plain("one"), ids["<|endoftext|>"], *plain("two"), ids["<|end|>"], ids["<|endo"], *plain(" three")]
    assert tokenizer.encode(text, allowed_special="all") == expected
    assert tokenizer.decode(expected) == text
    as_text = tokenizer.encode(text, disallowed_special=())
    assert not set(as_text) & set(ids.values())
    assert tokenizer.decode(as_text) == text
    some = tokenizer.encode(text, allowed_special={"<|end|>"}, disallowed_special=())
    assert [i for i in some if i in ids.values()] == [ids["<|end|>"]]
    batch = tokenizer.encode_batch([text, "", text], allowed_special="all")
    assert [part.tolist() for part in batch] == [expected, [], expected]


def test_what_is_not_utf8_is_named_or_replaced(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"byte 4 \(0xff\) is not UTF-8"):
        tokenizer.encode(b"abc \xff def")
    assert tokenizer.decode(tokenizer.encode(b"abc \xff def", errors="replace")) == "abc \ufffd def"
    with pytest.raises(TokenizerError, match=r"text 2: byte 1 \(0xfe\)"):
        tokenizer.encode_batch([b"a", b"b", b"c\xfe"])
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at character 2"):
        tokenizer.encode("ab\ud800")
    assert tokenizer.decode(tokenizer.encode("ab\ud800", errors="replace")) == "ab\ufffd"
    special = tokenizer.encode(b"\xff<|end|>\xff", errors="replace", allowed_special="all")
    assert tokenizer.decode(special) == "\ufffd<|end|>\ufffd"


def test_nul_and_every_byte_survive(tokenizer: Tokenizer) -> None:
    text = "".join(map(chr, range(0x180))) + "\x00\x00a\x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decoding_bytes_that_are_no_text(tokenizer: Tokenizer) -> None:
    cat = tokenizer.encode("猫")
    assert len(cat) > 1
    assert tokenizer.decode(cat[:-1]) == "\ufffd"
    with pytest.raises(TokenizerError, match="not UTF-8"):
        tokenizer.decode(cat[:-1], errors="strict")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stream_is_its_whole_text(vocabulary: reference.Vocabulary, data: st.DataObject) -> None:
    tokenizer = Tokenizer(vocabulary)
    whole = data.draw(st.text(alphabet=st.sampled_from("ab é猫\n  <|endoftext|>'s"), max_size=120))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", 8)
        got = list(tokenizer.encode_iterable(parts, allowed_special="all"))
    assert got == tokenizer.encode(whole, allowed_special="all")


def test_a_stream_is_lazy(vocabulary: reference.Vocabulary) -> None:
    def forever():  # type: ignore[no-untyped-def]
        while True:
            yield "word after word\n"

    stream = Tokenizer(vocabulary).encode_iterable(forever())
    assert [next(stream) for _ in range(10)] == Tokenizer(vocabulary).encode("word after word\n" * 10)[:10]


def test_a_file_becomes_a_token_file(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_PART", 64)
    (tmp_path / "text.txt").write_text(TEXT)
    assert tokenizer.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy") == len(tokenizer.encode(TEXT))
    assert np.load(tmp_path / "ids.npy", mmap_mode="r").tolist() == tokenizer.encode(TEXT)
    (tmp_path / "bad.txt").write_bytes(TEXT.encode() + b"\xff")
    with pytest.raises(TokenizerError, match=r"bad\.txt"):
        tokenizer.encode_file(tmp_path / "bad.txt", tmp_path / "bad.npy")
    with pytest.raises(TokenizerError, match=r"missing\.txt: cannot be read"):
        tokenizer.encode_file(tmp_path / "missing.txt", tmp_path / "bad.npy")
    assert not (tmp_path / "bad.npy").exists()


def test_the_end_of_text_is_known_by_its_name(vocabulary: reference.Vocabulary) -> None:
    assert Tokenizer(vocabulary).eos_id == vocabulary.special_tokens["<|endoftext|>"]
    assert Tokenizer(reference.train(["ab"], 257)).eos_id is None


def test_saved_and_loaded_it_is_the_same(vocabulary: reference.Vocabulary, tmp_path: Path) -> None:
    Tokenizer(vocabulary).save(tmp_path / "new" / "folder")
    assert Tokenizer.load(tmp_path / "new" / "folder").fingerprint == vocabulary.fingerprint
    by_files = Tokenizer.from_files(tmp_path / "new/folder/vocab.json", tmp_path / "new/folder/merges.txt")
    assert by_files.vocabulary == vocabulary
