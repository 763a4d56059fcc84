import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import formats, reference
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.formats.huggingface import unportable
from lm_tokenizer.pretokenize import PATTERNS, expression_of
from lm_tokenizer.vocab import Vocabulary, with_special_tokens

PARTS = [
    " the",
    "The",
    "'s",
    "'LL",
    "'\u017f",
    "12345",
    "  ",
    "\n",
    " \r\n\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u00e9",
    "\u65e5",
]
ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), ANY), max_size=20).map("".join)
CUSTOM = r"\p{L}+|\p{N}{1,2}|\s++|[^\s\p{L}\p{N}]++"


@pytest.fixture(scope="module", params=[*PATTERNS, CUSTOM])
def saved(request: pytest.FixtureRequest, text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A vocabulary of each pattern, and the folder that it was saved in, with its ranks besides."""
    learned = reference.train([text], 398, request.param)
    made = with_special_tokens(learned.tokens, learned.merges, ["<|endoftext|>", "<|a \u00e9|>"], request.param)
    folder = tmp_path_factory.mktemp("saved")
    formats.save(made, folder)
    formats.write_tiktoken(made, folder / "ranks.tiktoken")
    return made, folder


# Round trips


def test_every_format_gives_the_vocabulary_back(saved: tuple[Vocabulary, Path]) -> None:
    made, folder = saved
    special = list(made.special_tokens)
    for read in (
        formats.load(folder),
        formats.load(folder / "tokenizer.json"),
        formats.read_gpt2(folder / "vocab.json", folder / "merges.txt", special, made.pattern),
        formats.read_tiktoken(folder / "ranks.tiktoken", made.pattern, made.special_tokens),
    ):
        assert read == made
        assert read.fingerprint == made.fingerprint


def test_special_tokens_may_be_first_and_ids_unused(plain: Vocabulary, tmp_path: Path) -> None:
    merges = [(left + 3, right + 3) for left, right in plain.merges]
    made = Vocabulary([b"<s>", b"", b"</s>", *plain.tokens], merges, {"<s>": 0, "</s>": 2})
    formats.save(made, tmp_path)
    formats.write_tiktoken(made, tmp_path / "x.tiktoken")
    assert formats.load(tmp_path) == made
    assert formats.read_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt") == made
    assert formats.read_tiktoken(tmp_path / "x.tiktoken", "gpt2", made.special_tokens) == made
    tokenizers = pytest.importorskip("tokenizers")
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert peer.encode("<s>the</s>").ids == [0, *reference.encode("the", made), 2]


def test_a_folder_without_tokenizer_json_is_read_from_gpt2s_files(plain: Vocabulary, tmp_path: Path) -> None:
    formats.write_gpt2(plain, tmp_path)
    assert formats.load(tmp_path) == plain


def test_ranks_read_by_path_alone_have_gpt2s_pattern(plain: Vocabulary, tmp_path: Path) -> None:
    formats.write_tiktoken(plain, tmp_path / "mine.tiktoken")
    assert formats.load(tmp_path / "mine.tiktoken") == plain


# Peers read what is written here, and the other way round


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_tokenizers_and_transformers_give_the_same_ids(peers: Any, text: str) -> None:
    made, hugging_face, transformer, _ = peers
    ids = reference.encode(text, made)
    assert hugging_face.encode(text).ids == ids
    assert hugging_face.decode(ids) == text
    assert transformer is None or transformer.encode(text) == ids


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_tiktoken_gives_the_same_ids(peers: Any, text: str) -> None:
    made, _, _, encoding = peers
    assert encoding.encode_ordinary(text) == reference.encode(text, made)


@pytest.fixture(scope="module")
def peers(saved: tuple[Vocabulary, Path]) -> tuple[Vocabulary, Any, Any, Any]:
    tokenizers, tiktoken = pytest.importorskip("tokenizers"), pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    made, folder = saved
    transformer: Any = None
    with suppress(ImportError):
        transformers: Any = import_module("transformers")
        transformer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    encoding = tiktoken.Encoding(
        "saved",
        pat_str=expression_of(made.pattern),
        mergeable_ranks=load_tiktoken_bpe(str(folder / "ranks.tiktoken")),
        special_tokens=dict(made.special_tokens),
    )
    return made, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), transformer, encoding


def test_special_tokens_are_special_to_the_peers(peers: Any) -> None:
    made, hugging_face, transformer, encoding = peers
    text = "the<|a \u00e9|>the<|endoftext|>"
    the = reference.encode("the", made)
    ids = [*the, 399, *the, 398]
    assert hugging_face.encode(text).ids == encoding.encode(text, allowed_special="all") == ids
    assert transformer is None or transformer.encode(text) == ids


def test_what_the_peers_save_again_is_read(saved: tuple[Vocabulary, Path], tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made, folder = saved
    tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).save(str(tmp_path / "again.json"))
    assert formats.load(tmp_path / "again.json") == made


def test_the_real_gpt2_files_are_read_written_and_read(gpt2_folder: Path, tmp_path: Path) -> None:
    made = formats.read_gpt2(gpt2_folder / "vocab.json", gpt2_folder / "merges.txt")
    assert len(made.tokens) == 50257
    assert made.special_tokens == {"<|endoftext|>": 50256}
    formats.save(made, tmp_path)
    assert formats.load(tmp_path) == made
    formats.write_tiktoken(made, tmp_path / "r50k_base.tiktoken")
    assert formats.load(tmp_path / "r50k_base.tiktoken") == made


# tokenizer.json: other spellings, and what is refused


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


def test_added_tokens_are_special_tokens(document: Any, read: Any) -> None:
    document["added_tokens"] = [{"id": 402, "content": "  ", "special": False, "normalized": True}]
    made = read(document)
    assert made.special_tokens == {"  ": 402}
    assert made.tokens[400:] == (b"", b"", b"  ")


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no object": (lambda d: [], "no tokenizer.json"),
    "no model": (lambda d: {}, "no tokenizer.json"),
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
    "no vocab": (lambda d: d["model"].pop("vocab"), "model.vocab: this is no vocabulary"),
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


# GPT-2's files


@pytest.fixture
def gpt2(plain: Vocabulary, tmp_path: Path) -> tuple[Path, Path]:
    formats.write_gpt2(plain, tmp_path)
    return tmp_path / "vocab.json", tmp_path / "merges.txt"


def test_special_tokens_that_the_files_lack_get_the_next_ids(gpt2: tuple[Path, Path]) -> None:
    ids = json.loads(gpt2[0].read_text(encoding="utf-8"))
    gpt2[0].write_text(json.dumps(ids | {"<s>": 401}), encoding="utf-8")
    assert formats.read_gpt2(*gpt2).special_tokens == {"<s>": 401}
    assert formats.read_gpt2(*gpt2, ["<pad>", "<s>", "\u00e9"]).special_tokens == {
        "<s>": 401,
        "<pad>": 402,
        "\u00e9": 403,
    }


def test_carriage_returns_and_a_missing_first_line_are_tolerated(gpt2: tuple[Path, Path], plain: Vocabulary) -> None:
    lines = gpt2[1].read_text(encoding="utf-8").splitlines()
    for text in ("\r\n".join(lines), "\n".join(lines[1:]), "\ufeff" + "\n".join(lines) + "\n\n"):
        gpt2[1].write_bytes(text.encode())
        assert formats.read_gpt2(*gpt2) == plain


VOCABULARIES: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda s: "", "not JSON at line 1"),
    "cut": (lambda s: s[:-100], "not JSON at line 1, column .*cut short"),
    "no object": (lambda s: "[1]", "this is no vocabulary"),
    "empty object": (lambda s: "{}", "this is no vocabulary"),
    "deep": (lambda s: "[" * 100_000, "not JSON"),
    "a long number": (lambda s: '{"a": ' + "1" * 5000 + "}", "not JSON"),
    "not UTF-8": (lambda s: s.encode() + b"\xff", "not UTF-8 at byte"),
    "a text for an id": (lambda s: s.replace('"!":0', '"!":"0"'), "the id of '!' is '0'"),
    "a truth for an id": (lambda s: s.replace('"!":0', '"!":false'), "the id of '!' is False"),
    "a fraction for an id": (lambda s: s.replace('"!":0', '"!":0.0'), "the id of '!' is 0.0"),
    "negative": (lambda s: s.replace('"!":0', '"!":-1'), "the id of '!' is -1"),
    "huge": (lambda s: s.replace('"!":0', '"!":1000000000000'), "the id of '!' is 1000000000000"),
    "twice": (lambda s: s.replace('"!":0', '"!":1'), "'!' and '\"' have the same id, 1"),
    "a byte is missing": (lambda s: s.replace('"!":0', '"!!":0'), "no merge makes the token '!!'"),
    "another vocabulary": (lambda s: json.dumps({"a": 0, "b": 1}), "merges.txt, line 2: .* do not belong together"),
}
MERGES: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda s: "", "no merge makes the token .* cut short"),
    "cut in a line": (lambda s: s[: s.rindex(" ")], r"line 145: a merge is two tokens .* cut short"),
    "cut in a word": (lambda s: s[: s.rindex(" ") + 1], r"line 145: a merge is two tokens .* cut short"),
    "cut between lines": (lambda s: s[: s.rindex("\n", 0, len(s) // 2) + 1], "no merge makes the token .* cut short"),
    "three words": (lambda s: s + "a b c\nd\n", "line 146: a merge is two tokens .* not 'a b c'"),
    "two spaces": (lambda s: s + "a  b\n", "line 146: a merge is two tokens"),
    "an empty line": (lambda s: s.replace("\n", "\n\n", 1), "line 2: a merge is two tokens"),
    "an unknown part": (lambda s: s + "zz a\n", "line 146: the merge of 'zz' and 'a' needs the token 'zz'"),
    "an unknown product": (lambda s: s + "z z\n", "line 146: the merge of 'z' and 'z' needs the token 'zz'"),
    "not UTF-8": (lambda s: s.encode() + b"\xff", "not UTF-8 at byte"),
}  # fmt: skip


@pytest.mark.parametrize("name", [f"vocab: {name}" for name in VOCABULARIES] + [f"merges: {name}" for name in MERGES])
def test_malformed_files_are_one_line_that_names_file_and_place(gpt2: tuple[Path, Path], name: str) -> None:
    which, _, case = name.partition(": ")
    path = gpt2[which == "merges"]
    damage, says = (MERGES if which == "merges" else VOCABULARIES)[case]
    damaged = damage(path.read_text(encoding="utf-8"))
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(TokenizerError, match=says) as caught:
        formats.read_gpt2(*gpt2)
    assert str(gpt2[0].parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(gpt2: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere\.json: there is no such file"):
        formats.read_gpt2(tmp_path / "nowhere.json", gpt2[1])
    with pytest.raises(TokenizerError, match="this is a folder"):
        formats.read_gpt2(gpt2[0], tmp_path)
    with pytest.raises(TokenizerError, match=r"the folder has no tokenizer\.json"):
        formats.load(tmp_path.parent)
    with pytest.raises(TokenizerError, match="there is no such file"):
        formats.load(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="no tokenizer is recognized"):
        formats.load(gpt2[1])


def test_a_token_that_no_merge_makes_cannot_be_written(plain: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no merge makes the token 'zqzq'"):
        formats.write_gpt2(Vocabulary([*plain.tokens, b"zqzq"], plain.merges), tmp_path)


# tiktoken's ranks


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


# Writing


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_files(
    plain: Vocabulary, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    formats.save(plain, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if step == "fsync" else Path, step, full_disk)
    with pytest.raises(TokenizerError, match="cannot be written: No space left on device"):
        formats.save(vocabulary, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_where_the_folder_should_be_is_named(plain: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(TokenizerError, match=r"taken.* cannot be written"):
        formats.save(plain, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
