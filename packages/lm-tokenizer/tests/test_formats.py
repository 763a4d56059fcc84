"""Formats together: round trips, what peers read and write, and writing that fails."""

import errno
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_tokenizer import formats, reference
from lm_tokenizer.errors import TokenizerError
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
