"""Options that decide which merges are learned: the definition, Hugging Face's trainer, and published rules."""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import Tokenizer, TokenizerError, reference

TEXT = (
    Path(reference.__file__).read_text() + " Größe, naïve; Привет мир, 你好世界 🙂🙂 1234 abababab ''' \u3000\r\n\t" * 5
)
Merges = list[tuple[bytes, bytes]]


def learn(texts: list[str], size: int, **options: Any) -> Merges:
    """The merges, by their bytes, of the kernels; those of the definition are the same."""
    learned = Tokenizer.train(texts, size, progress=False, threads=1, **options).vocabulary
    assert learned == reference.train(texts, size, **options)
    return [(learned.tokens[left], learned.tokens[right]) for left, right in learned.merges]


def hugging_face(texts: list[str], size: int, **options: Any) -> Merges:
    tokenizers = pytest.importorskip("tokenizers")
    from lm_tokenizer.vocab import from_printable

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet, **options)
    model.train_from_iterator(texts, trainer)
    return [(from_printable(a), from_printable(b)) for a, b in json.loads(model.to_str())["model"]["merges"]]


@pytest.mark.parametrize("options", [
    {"min_frequency": 2}, {"min_frequency": 9}, {"min_frequency": 10**6}, {"max_token_length": 2},
    {"max_token_length": 3}, {"max_token_length": 5}, {"max_token_length": 8, "min_frequency": 4},
])  # fmt: skip
def test_options_are_hugging_faces(options: dict[str, int]) -> None:
    assert learn([TEXT], 700, **options) == hugging_face([TEXT], 700, **{"min_frequency": 0} | options)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("ab c"), max_size=30), min_size=1, max_size=3).filter(any),
    min_frequency=st.integers(0, 4),
    max_token_length=st.none() | st.integers(2, 7),
)
def test_options_are_hugging_faces_on_any_text(
    texts: list[str], min_frequency: int, max_token_length: int | None
) -> None:
    options: dict[str, Any] = {"min_frequency": min_frequency, "max_token_length": max_token_length}
    assert learn(texts, 275, **options) == hugging_face(texts, 275, **options)


def greatest(text: str, merges: int) -> Merges:
    """subword-nmt's rule, `max(stats, key=lambda x: (stats[x], x))`, on words of bytes; another way to write it."""
    words = Counter(tuple(bytes([byte]) for byte in word.encode()) for word in text.split(" "))
    found: Merges = []
    for _ in range(merges):
        stats: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                stats[pair] += count
        if not stats:
            break
        left, right = max(stats, key=lambda pair: (stats[pair], pair))
        found.append((left, right))
        merged: Counter[tuple[bytes, ...]] = Counter()
        for word, count in words.items():
            out: list[bytes] = []
            for part in word:
                # A token that was made here is not merged again: what stands before it is no `left` of this pair.
                if out and out[-1] == left and part == right:
                    out[-1:] = [left + right]
                else:
                    out.append(part)
            merged[tuple(out)] += count
        words = merged
    return found


def test_ties_broken_by_bytes_are_subword_nmts() -> None:
    rng = random.Random(0)
    for alphabet in ("ab", "abc", "azé猫"):
        text = " ".join("".join(rng.choices(alphabet, k=rng.randrange(1, 6))) for _ in range(40))
        # GPT-2's pattern gives a space to the word behind it; these are words alone.
        assert learn(text.split(" "), 285, tie_break="bytes") == greatest(text, 29)


@pytest.mark.parametrize("options", [{}, {"min_frequency": 3, "max_token_length": 6}])
def test_ties_broken_by_bytes_are_the_definitions(options: dict[str, int]) -> None:
    by_ids, by_bytes = (learn([TEXT], 500, tie_break=rule, **options) for rule in ("huggingface", "bytes"))
    assert by_ids != by_bytes
    assert learn(["ab ba", "ca"], 258, tie_break="bytes") == [(b"c", b"a"), (b"b", b"a")]


def test_a_token_that_two_merges_make_is_counted_anew_within_the_limits() -> None:
    text = "aaa aaaa aaaaa ab aab aaab " * 3
    for rule in ("huggingface", "bytes"):
        for longest in (3, 4, 5, None):
            learn([text], 275, tie_break=rule, max_token_length=longest)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_frequency": -1}, "min_frequency -1: must be 0 or more"),
        ({"max_token_length": 1}, "max_token_length 1: must be 2 or more"),
        ({"tie_break": "bites"}, "tie_break 'bites': must be huggingface or bytes"),
        ({"pattern": "(("}, "is not a regular expression"),
        ({"threads": 0}, "threads 0"),
        ({"vocab_size": 10}, "vocab_size 10"),
        ({"source": []}, "the corpus is empty"),
        ({"source": ["", "<|end|>", ""], "special_tokens": ["<|end|>"]}, "the corpus is empty"),
        ({"source": Path("empty.txt")}, "the corpus is empty"),
    ],
)
def test_a_mistake_shows_before_anything_is_compiled(
    options: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    monkeypatch.setitem(sys.modules, "lm_tokenizer.train", None)  # which imports the kernels
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.train(**{"source": ["text"], "vocab_size": 300} | options)


def test_a_corpus_is_read_no_further_than_its_first_text_before_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def texts() -> Iterator[str]:
        for i in range(100):
            read.append(i)
            yield "x" * 600

    monkeypatch.setattr("lm_tokenizer.corpus.UNIT", 1000)
    monkeypatch.setitem(sys.modules, "lm_tokenizer.train", None)
    with pytest.raises(ImportError):
        Tokenizer.train(texts(), 300)
    assert read == [0, 1]
