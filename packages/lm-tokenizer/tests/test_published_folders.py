"""Tokenizers as they are published: Llama 3's tokenizer.model, and GPT-2's folder without a tokenizer.json."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lm_tokenizer import Tokenizer, TokenizerError, formats, reference
from lm_tokenizer.adapters import load_tokenizer, train_tokenizer
from lm_tokenizer.formats import tiktoken as ranks
from lm_tokenizer.pretokenize import PATTERNS
from lm_tokenizer.vocab import Vocabulary

TEXT = "It's the first text,\r\n  and it'S 12345 long; naïve 東京 \U0001f600 <|eot_id|>\n\n"


def test_llama_3_has_the_special_tokens_that_it_was_published_with() -> None:
    _, number, special = ranks.ENCODINGS[ranks.LLAMA_3]
    assert sorted(special.values()) == list(range(number, number + 256))
    assert special["<|begin_of_text|>"] == 128000
    assert special["<|end_of_text|>"] == 128001
    assert special["<|reserved_special_token_3|>"] == 128005
    assert special["<|end_header_id|>"] == 128007
    assert special["<|eot_id|>"] == 128009
    assert special["<|reserved_special_token_5|>"] == 128010
    assert special["<|reserved_special_token_250|>"] == 128255


@pytest.fixture
def llama(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer.model like Llama 3's, of 398 ranks."""
    formats.write_tiktoken(reference.train([text], 398, "llama3"), tmp_path / "tokenizer.model")
    return _published_with(tmp_path, 398, monkeypatch)


def _published_with(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    special = ranks.ENCODINGS[ranks.LLAMA_3].special_tokens
    moved = {text: token_id - 128000 + number for text, token_id in special.items()}
    monkeypatch.setitem(ranks.ENCODINGS, ranks.LLAMA_3, ranks.Encoding("llama3", number, moved))  # type: ignore[arg-type]
    return folder


def peer_of(path: Path, special: Any) -> Any:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    return tiktoken.Encoding(
        "llama", pat_str=PATTERNS["llama3"], mergeable_ranks=load_tiktoken_bpe(str(path)), special_tokens=special
    )


def test_llama_3s_file_is_read_by_itself_and_in_its_folder(llama: Path) -> None:
    for found in (Tokenizer.load(llama), Tokenizer.load(llama / "tokenizer.model"), load_tokenizer(llama)):
        assert isinstance(found, Tokenizer)
        assert (found.vocab_size, len(found.special_tokens)) == (654, 256)
        assert found.eos_id == found.special_tokens["<|end_of_text|>"] == 399
        peer = peer_of(llama / "tokenizer.model", found.special_tokens)
        assert found.encode(TEXT, allowed_special="all") == peer.encode(TEXT, allowed_special="all")


def test_ranks_that_merges_cannot_say_are_left_to_the_library(
    tmp_path: Path, plain: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(ranks.ranks_to_bytes({**plain.id_of_bytes, b"zqzq": len(plain.tokens)}))
    _published_with(tmp_path, len(plain.tokens) + 1, monkeypatch)
    with pytest.raises(TokenizerError, match="'zqzq' of rank 400 cannot be made"):
        Tokenizer.load(path)
    for found in (load_tokenizer(path), load_tokenizer(tmp_path)):
        assert found.name == "tiktoken"
        assert found.encode("zqzq azqzq") == peer_of(path, {}).encode("zqzq azqzq")


def test_a_model_that_is_sentencepieces_stays_so(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    train_tokenizer("sentencepiece", [TEXT * 20], 330).save(tmp_path)
    assert load_tokenizer(tmp_path).name == load_tokenizer(tmp_path / "tokenizer.model").name == "sentencepiece"


def test_ranks_of_another_number_or_name_are_refused(tmp_path: Path, plain: Vocabulary) -> None:
    formats.write_tiktoken(plain, tmp_path / "tokenizer.model")
    with pytest.raises(TokenizerError, match=r"tokenizer.model: it has 400 ranks, that of Llama 3 has 128,000"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").rename(tmp_path / "mine.model")
    with pytest.raises(TokenizerError, match="whose ranks these are is not known"):
        load_tokenizer(tmp_path / "mine.model")


def test_a_pipe_is_not_waited_for_to_know_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.model")
    assert not formats.is_ranks(tmp_path / "tokenizer.model")
    assert not formats.is_ranks(tmp_path)


# GPT-2's folder


@pytest.fixture
def gpt2(tmp_path: Path, text: str) -> Path:
    learned = Tokenizer.train([text], 400, ["<|endoftext|>"], progress=False).vocabulary
    formats.write_gpt2(learned, tmp_path)
    return tmp_path


def test_gpt2s_two_files_are_enough(gpt2: Path) -> None:
    (gpt2 / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    (gpt2 / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 399}))
    for found in (load_tokenizer(gpt2), Tokenizer.load(gpt2)):
        assert found.special_tokens == {"<|endoftext|>": 399}
        assert found.eos_id == 399
        assert found.encode(TEXT) == Tokenizer.from_files(gpt2 / "vocab.json", gpt2 / "merges.txt").encode(TEXT)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"}, "its tokenizer_class is Qwen2Tokenizer"),
        ("tokenizer_config.json", {"add_prefix_space": True}, "it puts a space before every text"),
        ("added_tokens.json", {"    ": 400}, "it has tokens that vocab.json has not"),
    ],
)
def test_a_folder_of_another_tokenizer_is_refused(gpt2: Path, name: str, content: Any, says: str) -> None:
    (gpt2 / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=rf"{name}: {says}.*: save it with transformers"):
        load_tokenizer(gpt2)
