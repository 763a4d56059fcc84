"""Tokenizers that other libraries learn: what comes back, what is lost, special tokens, mistakes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer.adapters import TextTokenizer, load_tokenizer, source, train_tokenizer
from lm_tokenizer.errors import TokenizerError

pytest.importorskip("tokenizers")
CORPUS = "the quick brown fox jumps over the lazy dog, and over the other dog;\n\tnaïve: 東京\n" * 20
SPECIAL = ["<pad>", "<unk>", "<bos>", "<eos>"]


@pytest.fixture(scope="module")
def by_bytes() -> TextTokenizer:
    return train_tokenizer("hf", [CORPUS], 300, SPECIAL)


@pytest.fixture(scope="module")
def by_words() -> TextTokenizer:
    return train_tokenizer("hf", [CORPUS], 120, SPECIAL, pre_tokenizer="whitespace")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_bytes(by_bytes: TextTokenizer, text: str) -> None:
    ids = by_bytes.encode(text, disallowed_special=())  # Hypothesis takes the name of one from the code
    assert by_bytes.decode(ids) == text
    assert by_bytes.byte_lengths[ids].sum() == len(text.encode())


def test_words_lose_white_space_and_characters_that_the_corpus_lacks(by_words: TextTokenizer) -> None:
    ids = by_words.encode("the  lazy\n\tfox")
    assert by_words.decode(ids) == "the lazy fox"
    assert by_words.byte_lengths[ids].sum() == len(" the lazy fox")
    assert by_words.special_tokens["<unk>"] in by_words.encode("the Ω")


@pytest.mark.parametrize("pre_tokenizer", ["bytes", "whitespace"])
def test_merges_are_learned_from_whole_words(pre_tokenizer: str) -> None:
    tokenizer = train_tokenizer("hf", [CORPUS], 600, pre_tokenizer=pre_tokenizer)
    assert len(tokenizer.encode(" over")) == 1
    assert len(tokenizer.encode(" the other dog")) == 3
    assert tokenizer.vocab_size < 600, "the corpus has no more merges"


def test_merges_cross_the_ends_of_lines() -> None:
    code = "def f():\n    return 1\n"
    tokenizer = train_tokenizer("hf", [code * 9], 600)
    assert len(tokenizer.encode(code)) < len([i for line in code.splitlines(True) for i in tokenizer.encode(line)])


def test_sentencepiece_learns_indents() -> None:
    pytest.importorskip("sentencepiece")
    tokenizer = train_tokenizer("sentencepiece", ["def f():\n    if x:\n        return 1\n" * 99], 300)
    assert len(tokenizer.encode(" " * 8)) <= 2


def test_a_long_text_is_learned_in_parts_and_a_file_like_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LONGEST_PART", 200)
    (tmp_path / "corpus.txt").write_bytes(CORPUS.encode())
    assert "".join(source.parts(CORPUS)) == CORPUS
    assert list(source.parts_of(tmp_path)) == list(source.parts(CORPUS))
    assert {len(part) <= 200 and part.endswith("\n") for part in source.parts(CORPUS)} == {True}
    assert {len(part) for part in source.parts("x" * 450)} == {200, 50}
    by_file, by_text = (train_tokenizer("hf", corpus, 300) for corpus in (tmp_path, [CORPUS]))
    assert by_file.fingerprint == by_text.fingerprint


def test_special_tokens_come_first_and_the_end_is_known(by_bytes: TextTokenizer, by_words: TextTokenizer) -> None:
    for tokenizer in (by_bytes, by_words):
        assert dict(tokenizer.special_tokens) == {name: i for i, name in enumerate(SPECIAL)}
        assert tokenizer.eos_id == 3


def test_it_is_the_same_again_and_after_it_was_saved(by_words: TextTokenizer, tmp_path: Path) -> None:
    again = train_tokenizer("hf", [CORPUS], 120, SPECIAL, pre_tokenizer="whitespace")
    by_words.save(tmp_path)
    assert by_words.fingerprint == again.fingerprint == load_tokenizer(f"hf:{tmp_path}").fingerprint


@pytest.mark.parametrize("kind", ["bpe", "hf", "sentencepiece"])
def test_the_usual_special_tokens_are_taken_by_every_kind(kind: str) -> None:
    pytest.importorskip("sentencepiece")
    options = {"progress": False} if kind == "bpe" else {}
    tokenizer = train_tokenizer(kind, [CORPUS], 400, SPECIAL, **options)
    missing = {"<unk>"} if kind == "sentencepiece" else set()  # it is what unknown text becomes, and no control piece
    assert set(SPECIAL) - set(tokenizer.special_tokens) == missing
    assert tokenizer.eos_id == tokenizer.special_tokens["<eos>"]


@pytest.mark.parametrize(
    ("corpus", "size", "says"),
    [([], 300, "the corpus is empty"), ([CORPUS], 100, "vocab_size 100 is too small: .* alone are 256"),
     ([Path("gone.txt")], 300, "gone.txt")],
)  # fmt: skip
def test_a_mistake_is_one_line(corpus: list[str | Path], size: int, says: str) -> None:
    with pytest.raises(TokenizerError, match=says):
        train_tokenizer("hf", corpus, size)
