"""tokenizer.json: spellings of one meaning, and what is refused because it would be encoded differently."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_tokenizer import formats
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.huggingface import unportable
from lm_tokenizer.pretokenize import PATTERNS
from lm_tokenizer.vocab import Vocabulary


@pytest.fixture
def document(plain: Vocabulary, tmp_path: Path) -> Any:
    formats.write_huggingface(plain, tmp_path / "tokenizer.json")
    return json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Vocabulary]:
    def write_and_read(document: Any) -> Vocabulary:
        (tmp_path / "x.json").write_text(json.dumps(document), encoding="utf-8")
        return formats.load(tmp_path / "x.json")

    return write_and_read


def _split(expression: str, behavior: str = "Isolated", invert: bool = False) -> Any:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}
    return {
        "type": "Sequence",
        "pretokenizers": [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}],
    }


def test_merges_in_the_old_form_are_read(document: Any, read: Any, plain: Vocabulary) -> None:
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    assert read(document) == plain


@pytest.mark.parametrize(
    ("pre_tokenizer", "pattern"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False}, "gpt2"),
        ({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False}]}, "gpt2"),
        (_split(PATTERNS["o200k"]), "o200k"),
        (_split(PATTERNS["o200k"], "Removed", invert=True), "o200k"),
        (_split(PATTERNS["cl100k"].replace("{1,3}+", "{1,3}")), "cl100k"),
        (_split(PATTERNS["gpt2"]), "gpt2"),
        (_split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "gpt2"),
        (_split(r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]"), r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]"),
    ],
)
def test_published_patterns_are_recognized(document: Any, read: Any, pre_tokenizer: Any, pattern: str) -> None:
    document["pre_tokenizer"] = pre_tokenizer
    assert read(document).pattern == pattern


def test_what_does_not_change_the_ids_is_left_out(document: Any, read: Any, plain: Vocabulary) -> None:
    document |= {
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": "BatchLongest", "pad_id": 0},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True},
        "normalizer": {"type": "Sequence", "normalizers": []},
        "decoder": None,
    }
    document["model"] |= {"unk_token": "!", "fuse_unk": True, "continuing_subword_prefix": "", "ignore_merges": True}
    assert read(document) == plain


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no object": (lambda d: [], "not a tokenizer.json"),
    "no model": (lambda d: {}, "not a tokenizer.json"),
    "another model": (lambda d: d["model"].update(type="WordPiece"), "its model is WordPiece"),
    "normalizer": (lambda d: d.update(normalizer={"type": "NFC"}), r"normalizes texts \(NFC\)"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "dropout=0.1"),
    "byte_fallback": (lambda d: d["model"].update(byte_fallback=True), "byte_fallback=True"),
    "prefix": (lambda d: d["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix='##'"),
    "suffix": (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix='</w>'"),
    "decoder": (lambda d: d.update(decoder={"type": "Metaspace"}), "decoder is not ByteLevel"),
    "no pre_tokenizer": (lambda d: d.update(pre_tokenizer=None), "pre_tokenizer is none|pre_tokenizer is None"),
    "another pre_tokenizer": (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is Whitespace"),
    "prefix space": (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "a space before every text"),
    "whole texts": (lambda d: d["pre_tokenizer"].update(use_regex=False), "leaves every text whole"),
    "merged with next": (lambda d: d.update(pre_tokenizer=_split(r"\s", "MergedWithNext")), "mergedwithnext"),
    "what matches is dropped": (lambda d: d.update(pre_tokenizer=_split(r"\s", "Removed")), "removed"),
    "possessive interval": (lambda d: d.update(pre_tokenizer=_split(PATTERNS["cl100k"])), r"reads '\{1,3\}\+'"),
    "ends of lines": (lambda d: d.update(pre_tokenizer=_split(r"a$|b")), r"reads '\$'"),
    "invalid expression": (lambda d: d.update(pre_tokenizer=_split(r"(a")), "not a regular expression"),
    "lstrip": (lambda d: d.update(added_tokens=[{"id": 400, "content": "<s>", "lstrip": True}]), "'<s>' has lstrip"),
    "added id taken": (lambda d: d.update(added_tokens=[{"id": 3, "content": "<s>"}]), "vocabulary says otherwise"),
    "added id differs": (lambda d: d.update(added_tokens=[{"id": 400, "content": "a"}]), "vocabulary says otherwise"),
    "added without id": (lambda d: d.update(added_tokens=[{"content": "<s>"}]), "an `id` and a `content`"),
    "added no list": (lambda d: d.update(added_tokens="<s>"), "an `id` and a `content`"),
    "huge id": (lambda d: d.update(added_tokens=[{"id": 10**12, "content": "<s>"}]), "an `id` and a `content`"),
    "no vocab": (lambda d: d["model"].pop("vocab"), "model.vocab: this is not a vocabulary"),
    "no merges": (lambda d: d["model"].pop("merges"), "there is no list of merges"),
    "a merge of three": (
        lambda d: d["model"]["merges"].insert(2, ["a", "b", "c"]),
        r"merges\[2\]: a merge is two tokens",
    ),
    "a merge of numbers": (lambda d: d["model"]["merges"].insert(2, [1, 2]), r"merges\[2\]: a merge is two tokens"),
    "an unknown part": (lambda d: d["model"]["merges"].insert(1, ["a", "zz"]), r"merges\[1\]: .* needs the token 'zz'"),
    "a byte is missing": (lambda d: d["model"]["vocab"].update({"!!": d["model"]["vocab"].pop("!")}), "not byte-level"),
    "no printable token": (lambda d: d["model"]["vocab"].update({"a b": 400}), "which stands for no byte"),
    "surrogate": (lambda d: d.update(added_tokens=[{"id": 400, "content": "\ud800"}]), "lone surrogate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_encoded_differently_is_refused(document: Any, read: Any, name: str) -> None:
    change, says = REFUSED[name]
    changed = change(document)
    with pytest.raises(TokenizerError, match=says) as caught:
        read(changed if name in ("no object", "no model") else document)
    assert "x.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ignored_merges_are_refused_where_they_matter(document: Any, read: Any) -> None:
    document["model"]["vocab"]["zqzq"] = 400
    assert read(document).tokens[400] == b"zqzq"
    document["model"]["ignore_merges"] = True
    with pytest.raises(TokenizerError, match="ignore_merges, and its merges do not make b'zqzq'"):
        read(document)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        (r"\d{1,3}+", "{1,3}+"),
        (r"a{2}?", "{2}?"),
        (r"^a", "^"),
        (r"a\Z", r"\Z"),
        (r"\h", r"\h"),
        (r"\w", r"\w"),
        (r"[\w]", "["),
        (r"[a&&b]", "["),
        (r"(?m)a", "(?m"),
        (r"\p{L}+|\$|[$^]|[^\]\s]{1,3}|(?i:'s)|a{2,}|(?P<m>a)|\x41++|[[:alpha:]]?+", None),
    ],
)
def test_what_two_engines_read_differently_is_found(expression: str, part: str | None) -> None:
    assert unportable(expression) == part


def test_a_pattern_that_cannot_be_written_is_refused_and_nothing_is_written(plain: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot be written"):
        formats.save(replace(plain, pattern=r"\p{N}{1,3}+"), tmp_path / "new")
    with pytest.raises(TokenizerError, match="cannot be written"):
        formats.check_pattern(r"\p{N}{1,3}+")
    for pattern in PATTERNS:
        formats.check_pattern(pattern)
    assert not (tmp_path / "new").exists()


def test_a_special_token_with_the_name_of_an_ordinary_one_cannot_be_written(plain: Vocabulary, tmp_path: Path) -> None:
    made = Vocabulary([*plain.tokens, b"a"], plain.merges, {"a": 400})
    with pytest.raises(TokenizerError, match=r"'a' is the name of an ordinary token too"):
        formats.save(made, tmp_path)
