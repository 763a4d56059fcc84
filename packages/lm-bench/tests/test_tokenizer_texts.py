"""Texts in pieces, GPT-2's files in other formats, rounds in turns, merges compared."""

import base64
import json
import random
from pathlib import Path

import numpy as np
import pytest

from lm_bench.rounds import interleaved, per_byte, ratios
from lm_bench.tokenizer import texts
from lm_bench.tokenizer.encoding import first_difference
from lm_bench.tokenizer.gpt2 import PATTERN, convert, raw
from lm_bench.tokenizer.texts import Text, pieces, prefix, stream
from lm_bench.tokenizer.training import compare
from lm_core.errors import UserError


def some_text(length=4000):
    chosen = random.Random(0).choices(
        ["word", " ", "\n", "\n\n", "  ", "'s", "中文", "\u3000", "\x1c", "7", "é", "."], k=length
    )
    return "".join(chosen)


def test_pieces_are_the_text():
    text = some_text()
    cut = list(pieces(text, 50))
    assert "".join(cut) == text
    assert len(cut) > 20


def test_pieces_tokenize_as_the_whole_does():
    regex = pytest.importorskip("regex")
    split = regex.compile(PATTERN)
    text = some_text()
    assert [token for piece in pieces(text, 50) for token in split.findall(piece)] == split.findall(text)


def test_a_stream_of_pieces_is_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "PIECE", 64)
    path = tmp_path / "t.txt"
    text = some_text() + "\r\n end"
    path.write_text(text, "utf-8", newline="")
    assert "".join(stream(path)) == text
    parts = list(Text(path).parts(1))
    assert "".join(piece for part in parts for piece in part.pieces) == text
    assert "".join(Text(path).lines) == text
    assert all(line.index("\n") == len(line) - 1 for line in Text(path).lines[:-1])


def test_a_prefix_ends_with_a_line_or_a_character():
    assert prefix(b"ab\ncd\n", 4) == b"ab\n"
    assert prefix("éé".encode(), 3) == "é".encode()
    assert prefix(b"ab", 4) == b"ab"


def test_gpt2s_files_in_the_other_formats(tmp_path):
    vocabulary = {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "<|endoftext|>": 5}
    (tmp_path / "v.json").write_text(json.dumps(vocabulary), "utf-8")
    (tmp_path / "m.txt").write_text("#version: 0.2\na b\nĠ ab\n", "utf-8")
    models = convert(str(tmp_path / "v.json"), str(tmp_path / "m.txt"), tmp_path)
    ranks = [line.split() for line in Path(models.ranks).read_text().splitlines()]
    assert [(base64.b64decode(token), int(rank)) for token, rank in ranks][2:] == [(b" ", 2), (b"ab", 3), (b" ab", 4)]
    model = json.loads(Path(models.tokenizer_json).read_text("utf-8"))["model"]
    assert model["merges"] == ["a b", "Ġ ab"]
    assert "<|endoftext|>" not in model["vocab"]
    assert raw("Ġab") == b" ab"


def test_gpt2s_files_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        convert(str(tmp_path / "v.json"), str(tmp_path / "m.txt"), tmp_path)


def test_rounds_give_every_side_every_place():
    order = []
    results = interleaved("abc", 4, lambda side: order.append(side) or len(order), warmup=2)
    assert sorted(order) == sorted("abc" * 6)
    assert {order.index("a", i, i + 3) - i for i in range(0, 18, 3)} == {0, 1, 2}
    assert all(len(sample) == 4 for sample in results.values())


def test_ratios_are_within_rounds():
    assert ratios([2.0, 4.0], [1.0, 2.0]).median == 0.5
    assert ratios([2.0], None) is None
    assert per_byte([1e-3], 1000) == [1e3]


def test_the_first_difference_of_ids_is_named():
    assert first_difference(np.array([1, 2]), np.array([1, 2])) == ""
    assert first_difference(np.array([1, 2, 3]), np.array([1, 5, 3])) == "token 1 is 5 and not 2"
    assert first_difference(np.array([1, 2]), np.array([1])) == "1 tokens and not 2"


def test_merges_are_compared_as_far_as_they_are_told():
    merges = [(b"a", b"b"), (b"ab", b"c")]
    assert compare(merges, merges) == "merges equal"
    assert compare(merges, [(b"ab",), (b"abc",)]) == "tokens equal"
    assert compare(merges, [(b"a", b"b"), (b"a", b"bc")]) == "merges differ from number 1 on; 1 of 2 are in both"
    assert compare(merges, merges[:1]) == "1 merges, not 2"
    assert compare([], merges) == "2, nothing to compare with"
