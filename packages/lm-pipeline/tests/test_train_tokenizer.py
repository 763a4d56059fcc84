"""A tokenizer comes out whole, from every kind of file, or not at all."""

import json
import resource
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lm_tokenizer import Tokenizer

Run = Callable[..., int]
DOCUMENTS = [f"Document {i}: it's naïve and done {i * i}\n" for i in range(300)]


@pytest.fixture
def texts(folder: Path) -> Path:
    """The same documents in files of every kind."""
    (folder / "texts").mkdir()
    for i, document in enumerate(DOCUMENTS):
        (folder / f"texts/{i:03d}.txt").write_text(document)
    (folder / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), folder / "all.parquet")
    (folder / "separated.txt").write_text("<|endoftext|>".join(DOCUMENTS))
    (folder / "bad.txt").write_bytes(b"0123456789\xff")
    (folder / "empty.txt").touch()
    return folder


def test_files_of_every_kind_give_the_same_tokenizer(
    texts: Path, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    made = set()
    for name in ("texts", "texts/*.txt", "all.jsonl", "all.parquet", "separated.txt"):
        words = ["--input", name, "--vocab_size", 300, "--save_dir", "new/tokenizer"]
        assert run_train_tokenizer(*words, "--overwrite") == 0
        summary, path = capsys.readouterr().out.splitlines()
        assert summary.startswith("300 tokens, 43 merges, ")
        assert " MB/s, longest token '" in summary
        assert path == "new/tokenizer"
        assert sorted(path.name for path in (texts / "new").iterdir()) == ["tokenizer"]
        made.add(Tokenizer.load(texts / "new/tokenizer").fingerprint)
    assert len(made) == 1


def test_special_tokens_go_where_the_config_says(texts: Path, run_train_tokenizer: Run) -> None:
    words = ["--input", "all.jsonl", "--vocab_size", 300, "--save_dir", "new", "--overwrite"]
    assert run_train_tokenizer(*words, "--special_tokens", "<a>", "<b>", "--special_tokens_first") == 0
    assert dict(Tokenizer.load("new").special_tokens) == {"<a>": 0, "<b>": 1}
    assert run_train_tokenizer(*words, "--special_tokens") == 0
    assert Tokenizer.load("new").special_tokens == {}


def test_merges_are_chosen_by_the_config(texts: Path, run_train_tokenizer: Run) -> None:
    words = ["--input", "all.jsonl", "--vocab_size", 300, "--save_dir", "new", "--special_tokens"]
    options = {"min_frequency": 20, "max_token_length": 4, "tie_break": "bytes"}
    assert run_train_tokenizer(*words, *(word for name, value in options.items() for word in (f"--{name}", value))) == 0
    expected = Tokenizer.train(DOCUMENTS, 300, progress=False, **options)  # type: ignore[arg-type]
    assert Tokenizer.load("new").vocabulary.merges == expected.vocabulary.merges
    assert max(len(token) for token in expected.vocabulary.tokens) == 3


def test_a_corpus_that_gives_fewer_tokens_is_said(
    texts: Path, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (texts / "small.txt").write_text("ab ab ab")
    assert run_train_tokenizer("--input", "small.txt", "--save_dir", "new") == 0
    assert "the corpus gave 259 tokens, fewer than vocab_size 32,000" in capsys.readouterr().err


def test_print_config_prints_and_does_nothing_else(
    texts: Path, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train_tokenizer("--input", "none", "--save_dir", "new", "--print-config") == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["input"], printed["vocab_size"], printed["special_tokens"]) == (["none"], 32000, ["<|endoftext|>"])
    assert not (texts / "new").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--save_dir new", "input: name the files"),
        ("--input all.jsonl", "save_dir: give a folder"),
        ("--input none --save_dir new", "input none: there is no file"),
        ("--input all.jsonl --save_dir bad.txt", "save_dir bad.txt: bad.txt is a file"),
        ("--input all.jsonl --save_dir bad.txt/new", "save_dir bad.txt/new: bad.txt is a file"),
        ("--input texts bad.txt --save_dir new", "bad.txt"),
        ("--input empty.txt --save_dir new", "empty"),
        ("--input all.jsonl --text_field txet --save_dir new", "did you mean 'text'?"),
        ("--input all.jsonl --save_dir new --pattern gtp2", "unknown pattern 'gtp2'"),
        ("--input all.jsonl --save_dir new --vocab_size 256", "--vocab_size: Input should be greater than 256"),
        ("--input all.jsonl --save_dir new --special_tokens a a", "'a' is listed twice"),
        ("--input all.jsonl --save_dir new --max_token_length 1", "max_token_length 1: must be 2 or more"),
        ("--input all.jsonl --save_dir new --tie_break bites", "tie_break"),
        ("--vocab_sise 300", "did you mean --vocab_size?"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    texts: Path, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    before = sorted(texts.rglob("*"))
    assert run_train_tokenizer(*flags.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert sorted(texts.rglob("*")) == before


def test_a_full_disk_leaves_the_tokenizer_that_was_there(
    texts: Path, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--input", "all.jsonl", "--save_dir", "new", "--overwrite", "--vocab_size"]
    assert run_train_tokenizer(*words, 280) == 0
    before = {path: path.read_bytes() for path in (texts / "new").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (texts / "new/tokenizer.json").stat().st_size  # room for the smaller files, not for this one
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        assert run_train_tokenizer(*words, 300) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (texts / "new").iterdir()} == before
    assert not [path for path in texts.iterdir() if path.name.startswith((".", "new."))]


def test_a_folder_of_a_scratch_like_name_is_left_alone(texts: Path, run_train_tokenizer: Run) -> None:
    (texts / "new.new").mkdir()
    (texts / "new.new/mine.txt").write_text("mine")
    (texts / "new").mkdir()
    (texts / "new/tokenizer.json.new").write_text("mine")
    assert run_train_tokenizer("--input", "all.jsonl", "--save_dir", "new", "--vocab_size", 300) == 0
    assert (texts / "new.new/mine.txt").read_text() == (texts / "new/tokenizer.json.new").read_text() == "mine"


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "tokenizer.model", "words.json"])
def test_a_tokenizer_that_is_there_is_replaced_only_when_that_is_asked_for(
    texts: Path, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = ["--input", "all.jsonl", "--save_dir", "new", "--vocab_size", 300]
    (texts / "new").mkdir()
    if name == "tokenizer.json":
        Tokenizer.train([DOCUMENTS[0]], 270, progress=False).save(texts / "new")
        which = f"270 tokens, fingerprint {Tokenizer.load('new').fingerprint[:12]}"
    else:
        (texts / "new" / name).write_text("{}")
        which = f"its {name} cannot be read"
    before = {path: path.read_bytes() for path in (texts / "new").iterdir()}
    assert run_train_tokenizer(*words) == 2
    said = capsys.readouterr().err
    assert f"save_dir new already holds a tokenizer ({which})" in said
    assert "--overwrite" in said
    assert {path: path.read_bytes() for path in (texts / "new").iterdir()} == before
    assert run_train_tokenizer(*words, "--overwrite") == 0
    assert f"replaced the tokenizer in new ({which})" in capsys.readouterr().err
    assert Tokenizer.load("new").vocab_size == 300
