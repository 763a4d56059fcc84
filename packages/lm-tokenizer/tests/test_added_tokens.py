"""Added tokens of a `tokenizer.json`: the ids of `tokenizers`, or a refusal that names the adapter, which has them."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import SpecialTokenError, Tokenizer, TokenizerError, Vocabulary, formats, reference
from lm_tokenizer.adapters import load_tokenizer
from lm_tokenizer.adapters.huggingface import HuggingFaceTokenizer

tokenizers: Any = pytest.importorskip("tokenizers")
LEARNED = reference.train(["the theme of the   text\n\tabab ab é <x> <x>"] * 3, 290)
CONTENTS = [
    "  ", "   ", "    ", "\n", "\n\n", "\t", "ab", "abab", "ba", "a", " the", "the", "th", "é", "éé",
    "<x>", "<x", "x>",
    "<x> <x>", "😀", "Ġ", "Ġthe", " ", "zq",
]  # fmt: skip


def document(*added: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json with these added tokens, as the library itself numbers them."""
    content = json.loads(formats.huggingface.contents(LEARNED))
    content["added_tokens"] = [
        {"id": 0, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False} | entry
        for entry in added
    ]
    return dict(json.loads(peer_of(content).to_str()))


def peer_of(content: dict[str, Any]) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def read(content: dict[str, Any], folder: Path) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return Tokenizer.load(folder / "tokenizer.json")


def check(ours: Tokenizer, peer: Any, text: str) -> None:
    """All ways to encode a text, with its special tokens as such and as text."""
    compiled = Tokenizer(ours.vocabulary)
    compiled._is_small = lambda size: False  # type: ignore[method-assign]
    for as_text in (False, True):
        peer.encode_special_tokens = as_text
        choice: Any = {"disallowed_special": ()} if as_text else {"allowed_special": "all"}
        expected = peer.encode(text).ids
        assert ours.encode(text, **choice) == expected
        assert compiled.encode(text, **choice) == expected
        assert [ids.tolist() for ids in compiled.encode_batch([text, "", text], **choice)] == [expected, [], expected]
        assert list(ours.encode_iterable(iter(text), **choice)) == expected
        assert ours.decode(expected) == text  # the library reads an added "é" as the byte of that name


RUNS_OF_SPACES = [{"content": " " * n} for n in range(2, 9)]
END = {"content": "<|endoftext|>", "special": True, "normalized": False}
GOOD: dict[str, list[dict[str, Any]]] = {
    "runs of spaces, as models of code have them": [END, *RUNS_OF_SPACES],
    "made by a merge": [{"content": "ab"}],
    "made by a merge, special": [{"content": "ab", "special": True}, END],
    "made by merges, one within the other": [{"content": "ab"}, {"content": "abab"}, {"content": "the"}],
    "a byte": [{"content": "a"}],
    "a byte, special": [{"content": "b", "special": True}],
    "raw ones": [{"content": "xy", "normalized": False}, {"content": "yz", "normalized": False}],
}
TEXTS = [
    "",
    "if x:\n    return  ab\n\n  abab the theme",
    "<|endoftext|>ab   <|endoftext|>",
    "xyz ab ba b a",
    "é" + " " * 19,
]


@pytest.mark.parametrize("name", GOOD)
def test_the_ids_are_hugging_faces(name: str, tmp_path: Path) -> None:
    content = document(*GOOD[name])
    ours = read(content, tmp_path)
    for text in TEXTS:
        check(ours, peer_of(content), text)
    ours.save(tmp_path / "again")
    for again in (Tokenizer.load(tmp_path / "again"), pickle.loads(pickle.dumps(ours))):
        assert again.vocabulary == ours.vocabulary
        assert again.fingerprint == ours.fingerprint
    for text in TEXTS:
        check(ours, tokenizers.Tokenizer.from_file(str(tmp_path / "again/tokenizer.json")), text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("added")


entries = st.fixed_dictionaries(
    {"content": st.sampled_from(CONTENTS), "special": st.booleans(), "normalized": st.booleans()}
)
texts = st.lists(st.sampled_from([*CONTENTS, "q", "é猫"]), max_size=9).map("".join)


@settings(max_examples=50, deadline=None)
@given(added=st.lists(entries, max_size=5, unique_by=lambda entry: entry["content"]), text=texts)
def test_any_added_tokens_give_hugging_faces_ids_or_are_refused(
    added: list[dict[str, Any]], text: str, folder: Path
) -> None:
    content = document(*added)
    refused, ours = "", None
    try:
        ours = read(content, folder)
    except TokenizerError as error:
        refused = str(error)
    if ours is None:
        assert "load_tokenizer('hf:...')" in refused
        assert "\n" not in refused
        other = load_tokenizer(folder)
        assert other.name == "hf"
        assert other.encode(text, allowed_special="all") == peer_of(content).encode(text).ids
    else:
        check(ours, peer_of(content), text)


def test_an_added_token_is_text_and_a_special_one_is_not(tmp_path: Path) -> None:
    ours = read(document(END, *RUNS_OF_SPACES), tmp_path)
    assert list(ours.special_tokens) == ["<|endoftext|>"]
    assert len(ours.encode("a" + " " * 8)) == 2
    assert ours.eos_id == ours.special_tokens["<|endoftext|>"]
    with pytest.raises(SpecialTokenError, match=r"at character 4"):
        ours.encode("a   <|endoftext|>")
    assert ours.byte_lengths[ours.encode("    ")].sum() == 4
    assert ours.fingerprint != Tokenizer(LEARNED).fingerprint


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "lstrip": ([{"content": "<s>", "lstrip": True}], "'<s>' has lstrip"),
    "rstrip": ([{"content": "<s>", "rstrip": True}], "'<s>' has rstrip"),
    "single_word": ([{"content": "<s>", "single_word": True}], "'<s>' has single_word"),
    "overlap": ([{"content": "xy"}, {"content": "yz", "normalized": False}], "overlaps with one that differs"),
    "inside": ([{"content": "<ab>", "special": True}, {"content": "ab"}], "overlaps with one that differs"),
    "the name of another byte": ([{"content": "é"}], r"stands for the bytes b'\\xe9'"),
    "the name of another token": ([{"content": "Ġthe"}], "stands for the bytes b' the'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_found_otherwise_is_refused_and_the_adapter_has_it(name: str, tmp_path: Path) -> None:
    added, says = REFUSED[name]
    content = document(*added)
    with pytest.raises(TokenizerError, match=rf"{says}.*load_tokenizer\('hf:"):
        read(content, tmp_path)
    other = load_tokenizer(tmp_path)
    for text in ("a <s> b", "x<s>y <ab> xyz", "é the Ġthe"):
        assert other.encode(text, allowed_special="all") == peer_of(content).encode(text).ids


@pytest.mark.parametrize(("token_id", "content"), [(400, "<s>"), (3, "<s>"), (290, "ab"), (198, "\n")])
def test_an_id_that_the_library_would_not_give_is_refused(token_id: int, content: str, tmp_path: Path) -> None:
    changed = document({"content": content})
    changed["added_tokens"][0]["id"] = token_id
    with pytest.raises(TokenizerError, match=rf"has the id {token_id}, its vocabulary says otherwise .*'hf:"):
        read(changed, tmp_path)


def test_a_flagged_special_token_of_the_adapter_is_allowed_with_all_or_not_at_all() -> None:
    content = document({"content": "<mask>", "special": True, "lstrip": True}, END)
    adapter, peer = HuggingFaceTokenizer(peer_of(content)), peer_of(content)
    text = "the   <mask> ab<|endoftext|>"
    assert adapter.encode(text, allowed_special="all") == peer.encode(text).ids
    assert adapter.encode(text, allowed_special={"<mask>", "<|endoftext|>"}) == peer.encode(text).ids
    with pytest.raises(TokenizerError, match="'<mask>' depends on the text around it"):
        adapter.encode(text, allowed_special={"<mask>"}, disallowed_special=())
    with pytest.raises(SpecialTokenError, match="character 6"):
        adapter.encode(text)
    assert adapter.encode("the<|endoftext|>", allowed_special={"<|endoftext|>"}) == peer.encode("the<|endoftext|>").ids


def test_files_that_cannot_hold_an_added_token_are_not_written(tmp_path: Path) -> None:
    tokens = [*LEARNED.tokens, b"  x"]
    for vocabulary in (
        Vocabulary(tokens, LEARNED.merges, {}, "gpt2", {"  x": len(LEARNED.tokens)}),
        Vocabulary(LEARNED.tokens, LEARNED.merges, {"ab": LEARNED.tokens.index(b"ab")}),
    ):
        with pytest.raises(TokenizerError, match=r"GPT-2's files cannot hold .*: write tokenizer.json alone"):
            formats.write_gpt2(vocabulary, tmp_path)
        formats.save(vocabulary, tmp_path / "new")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]
        assert formats.load(tmp_path / "new") == vocabulary
    special = Vocabulary(LEARNED.tokens, LEARNED.merges, {" the": LEARNED.tokens.index(b" the")})
    with pytest.raises(TokenizerError, match="' the' is an ordinary token too"):
        formats.save(special, tmp_path)
