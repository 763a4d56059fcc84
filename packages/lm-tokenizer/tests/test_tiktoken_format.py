"""tiktoken's ranks: what they imply, and every kind of damage."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lm_tokenizer import formats, parts
from lm_tokenizer._kernels import objects
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.tiktoken import merges_from_ranks
from lm_tokenizer.vocab import Vocabulary

RANKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda s: b"", "the file is empty"),
    "cut": (lambda s: s[: s.rindex(b" ")], "line 400: a line is a token in base64"),
    "not base64": (lambda s: s + b"@@@ 400\n", "line 401: a line is a token in base64"),
    "no number": (lambda s: s + b"YWFh x\n", "line 401: a line is a token in base64"),
    "twice": (lambda s: s + s[: s.index(b" ")] + b" 400\n", r"line 401: the token b'!' is .* listed twice"),
    "negative": (lambda s: s + b"enF6cQ== -1\n", "line 401: the token b'zqzq'"),
    "the same rank": (lambda s: s + b"enF6cQ== 3\n", "two tokens have the same rank"),
    "a byte is missing": (lambda s: s[s.index(b"\n") + 1 :], "not byte-level"),
    "no way to make it": (
        lambda s: s + b"enF6cQ== 400\n",
        "'zqzq' of rank 400 cannot be made: .* give z \\+ q \\+ z \\+ q",
    ),
}


@pytest.mark.parametrize("name", RANKS)
def test_malformed_ranks_are_one_line_that_names_file_and_place(plain: Vocabulary, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tiktoken"
    formats.write_tiktoken(plain, path)
    damage, says = RANKS[name]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TokenizerError, match=says) as caught:
        formats.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_published_name_on_other_ranks_is_refused(plain: Vocabulary, tmp_path: Path) -> None:
    formats.write_tiktoken(plain, tmp_path / "cl100k_base.tiktoken")
    with pytest.raises(TokenizerError, match="it has 400 ranks, cl100k_base has 100,256"):
        formats.load(tmp_path / "cl100k_base.tiktoken")


@pytest.mark.parametrize("token_id", [0, 399, -1])
def test_a_special_token_needs_an_id_of_its_own(plain: Vocabulary, tmp_path: Path, token_id: int) -> None:
    formats.write_tiktoken(plain, tmp_path / "x.tiktoken")
    with pytest.raises(TokenizerError, match=f"the id {token_id} of the special token '<s>' is another token's"):
        formats.read_tiktoken(tmp_path / "x.tiktoken", "gpt2", {"<s>": token_id})


def test_merges_that_ranks_cannot_say_are_refused(plain: Vocabulary, tmp_path: Path) -> None:
    swapped = replace(plain, merges=[*plain.merges[1:], plain.merges[0]])
    with pytest.raises(TokenizerError, match="not in the order of the ids"):
        formats.write_tiktoken(swapped, tmp_path / "x.tiktoken")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("few", [0, parts.FEW], ids=["kernel", "python"])
def test_the_merges_of_ranks_are_those_that_merging_the_bytes_of_each_token_leaves(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks in no likely order, over few letters, so that most tokens can be cut into two others in several places."""
    monkeypatch.setattr(parts, "FEW", few)
    objects.load("encoding")
    rng = random.Random(0)
    for _ in range(150):
        ranks = {bytes([letter]): rank for rank, letter in zip(rng.sample(range(10, 20), 3), b"abc", strict=True)}
        ranks |= {bytes([letter]): 200 + letter for letter in range(256) if letter not in b"abc"}
        expected = []
        for rank in range(100, 140):
            token = bytes(rng.choices(b"abc", (4, 2, 1), k=rng.randint(2, 2 + rank % 5)))
            if token in ranks:
                continue
            found = [token[i : i + 1] for i in range(len(token))]
            while len(found) > 1:
                pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(found))]
                best, i = min(pairs)
                if best == rank:
                    break
                found[i : i + 2] = [found[i] + found[i + 1]]
            if len(found) == 2:
                expected.append((ranks[found[0]], ranks[found[1]]))
                ranks[token] = rank
            else:
                with pytest.raises(TokenizerError, match="cannot be made"):
                    merges_from_ranks({**ranks, token: rank})
        assert merges_from_ranks(ranks) == expected
