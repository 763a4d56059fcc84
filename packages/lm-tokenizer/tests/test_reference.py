from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import reference
from lm_tokenizer.formats import read_huggingface
from lm_tokenizer.formats.printable import named
from lm_tokenizer.pretokenize import expression_of
from lm_tokenizer.vocab import Vocabulary

PARTS = ["ab", "abc", " the", "the", "'s", "aaaa", "\n", "  ", "1", "12", "\u00e9", "\u65e5\u672c", "\U0001f600"]
ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), ANY), max_size=30).map("".join)


@pytest.fixture(scope="module")
def hugging_face_train() -> Callable[[Sequence[str], int], Any]:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import models, pre_tokenizers, trainers

    def train(texts: Sequence[str], vocab_size: int) -> Any:
        peer = tokenizers.Tokenizer(models.BPE())
        peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=0, initial_alphabet=alphabet, show_progress=False
        )
        peer.train_from_iterator(texts, trainer)
        return peer

    return train


def test_training_equals_hugging_face(text: str, hugging_face_train: Any, tmp_path: Any) -> None:
    for texts in ([text], text.split("\n"), [text[::-1]]):
        peer = hugging_face_train(texts, 420)
        peer.save(str(tmp_path / "peer.json"))
        assert reference.train(texts, 420) == read_huggingface(tmp_path / "peer.json")


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4), size=st.integers(256, 300))
def test_training_equals_hugging_face_on_any_texts(hugging_face_train: Any, texts: list[str], size: int) -> None:
    peer = hugging_face_train(texts, size)
    assert named(reference.train(texts, size)) == peer.get_vocab()


def test_equally_frequent_pairs_are_merged_in_the_order_of_their_ids() -> None:
    learned = reference.train(["ba", "ab", "ca"], 259)
    assert learned.tokens[256:] == (b"ab", b"ba", b"ca")


def test_training_ends_when_there_is_nothing_left_to_merge() -> None:
    assert len(reference.train(["ab"], 1000).tokens) == 257
    assert len(reference.train([], 1000).tokens) == 256
    assert len(reference.train([""], 1000).tokens) == 256


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_encoding_equals_tiktoken(vocabulary: Vocabulary, text: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    peer = tiktoken.Encoding(
        "ours", pat_str=expression_of(vocabulary.pattern), mergeable_ranks=dict(vocabulary.id_of_bytes),
        special_tokens=dict(vocabulary.special_tokens),
    )  # fmt: skip
    assert reference.encode(text, vocabulary) == peer.encode_ordinary(text)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_decoding_gives_the_text_back(vocabulary: Vocabulary, text: str) -> None:
    assert reference.decode_bytes(reference.encode(text, vocabulary), vocabulary).decode() == text


def test_a_merge_takes_occurrences_from_the_left() -> None:
    assert reference.merge([1, 1, 1, 2, 1, 1], (1, 1), 9) == [9, 1, 2, 9]
    assert reference.merge([], (1, 1), 9) == []
    assert reference.pairs_of([1, 2, 3]) == [(1, 2), (2, 3)]


def test_merges_are_applied_by_rank_not_from_left_to_right() -> None:
    alphabet = reference.train([], 256).tokens
    a, b, c = (alphabet.index(letter) for letter in (b"a", b"b", b"c"))
    vocabulary = Vocabulary([*alphabet, b"bc", b"ab"], [(b, c), (a, b)])
    assert reference.encode("abc", vocabulary) == [a, 256]
    assert reference.encode("ab", vocabulary) == [257]


@pytest.mark.parametrize("unit", ["a", " ", "\n", "\U0001f600"])
def test_long_runs_of_one_character_come_back(unit: str, plain: Vocabulary) -> None:
    text = unit * 200
    assert reference.decode_bytes(reference.encode(text, plain), plain).decode() == text


def test_gpt2s_own_ids(gpt2_folder: Any) -> None:
    from lm_tokenizer.formats import read_gpt2

    vocabulary = read_gpt2(gpt2_folder / "vocab.json", gpt2_folder / "merges.txt")
    assert reference.encode("Hello world", vocabulary) == [15496, 995]
    assert reference.encode("Hello, I'm a language model,", vocabulary) == [15496, 11, 314, 1101, 257, 3303, 2746, 11]


@given(text=TEXTS)
def test_each_step_of_an_encoding_is_one_merge_and_the_same_text(text: str) -> None:
    vocabulary = reference.train(["the there then thesis them"], 270)
    steps = list(reference.encoding_steps(text.encode(), vocabulary))
    assert [reference.decode_bytes(ids, vocabulary) for ids in steps] == [text.encode()] * len(steps)
    assert [len(ids) for ids in steps] == list(range(len(text.encode()), len(steps[-1]) - 1, -1))
    assert steps[-1] == reference.encode_pretoken(text.encode(), vocabulary)
