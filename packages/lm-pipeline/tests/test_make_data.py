"""Token files hold the documents of the corpus, whatever it lies in, and nothing of the final name when that failed."""

import fcntl
import json
import os
import resource
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lm_core.data.token_file import TokenFile
from lm_pipeline.commands import make_data
from lm_pipeline.text import plain
from lm_pipeline.tokens import encoding
from lm_pipeline.tokens import units as parts
from lm_pipeline.tokens.config import MakeDataConfig
from lm_tokenizer import Tokenizer

Run = Callable[..., int]
DOCUMENTS = [f"Document {i}: it's naïve, 東京 \U0001f600 {i * i}\n\n  done" for i in range(200)]
END = "<|endoftext|>"


def decoded(path: Path, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(TokenFile.open(path, tokenizer.fingerprint).tokens[:].tolist())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def write_text(folder: Path) -> list[object]:
    (folder / "all.txt").write_text(END.join(DOCUMENTS))
    return ["all.txt", "--separator", END]


def write_folder(folder: Path) -> list[object]:
    for i, document in enumerate(DOCUMENTS):
        path = folder / "texts" / str(i // 50) / f"{i:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document)
    return ["texts"]


def write_glob(folder: Path) -> list[object]:
    write_folder(folder)
    return ["texts/**/*.txt"]


def write_jsonl(folder: Path) -> list[object]:
    (folder / "all.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    return ["all.jsonl", "--text_field", "body"]


def write_parquet(folder: Path) -> list[object]:
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), folder / "all.parquet")
    return ["all.parquet"]


def write_mixture(folder: Path) -> list[object]:
    (folder / "a.txt").write_text(END.join(DOCUMENTS[:50]))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS[50:150]))
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS[150:]}), folder / "c.parquet")
    return ["a.txt", "b.jsonl", "c.parquet", "--separator", END]


@pytest.mark.parametrize(
    "write", [write_text, write_folder, write_glob, write_jsonl, write_parquet, write_mixture], ids=lambda f: f.__name__
)
def test_the_decoded_token_file_is_the_input(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, write: Callable[[Path], list[object]]
) -> None:
    for more in ([], ["--shard_bytes", 500, "--threads", 1]):
        assert run_make_data("--train", *write(folder), "--tokenizer", "tok", "--output", "out", *more) == 0
        assert decoded(folder / "out/train.npy", tokenizer) == "".join(text + END for text in DOCUMENTS)
    metadata = TokenFile.open(folder / "out/train.npy").metadata
    assert (metadata.documents, metadata.bytes) == (len(DOCUMENTS), len("".join(DOCUMENTS).encode()))
    assert metadata.eos_id == tokenizer.eos_id
    assert sorted(contents(folder / "out")) == ["make_data.toml", "train.npy", "train.npy.json"]
    assert not (folder / "out/.parts").exists()


def test_without_ends_a_file_comes_back_as_it_is(folder: Path, run_make_data: Run, tokenizer: Tokenizer) -> None:
    text = "\n".join(DOCUMENTS)
    (folder / "a.txt").write_bytes(text.encode("utf-8-sig"))
    words = ["--train", "a.txt", "--tokenizer", "tok", "--output", "out", "--no_eos_between_documents"]
    assert run_make_data(*words) == 0
    assert decoded(folder / "out/train.npy", tokenizer) == text


def test_a_long_document_is_encoded_in_pieces_to_the_same_ids(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "BLOCK", 300)
    monkeypatch.setattr(parts.Parts, "remove", lambda self: None)
    text = " ".join(DOCUMENTS)
    (folder / "a.txt").write_text(text)
    assert run_make_data("--train", "a.txt", "--tokenizer", "tok", "--output", "out", "--shard_bytes", 3000) == 0
    file = TokenFile.open(folder / "out/train.npy")
    assert file.tokens[:].tolist() == [*tokenizer.encode(text), tokenizer.eos_id]
    assert (file.metadata.documents, file.metadata.bytes) == (1, len(text.encode()))
    assert len(list((folder / "out/.parts").glob("*.train.npy"))) > 2


# The split


def test_the_split_is_by_document_and_depends_on_the_seed_alone(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer
) -> None:
    words = ["--train", *write_text(folder), "--tokenizer", "tok", "--validation_fraction", 0.2]
    held_out = []
    for i, more in enumerate([["--threads", 1], ["--shard_bytes", 700, "--threads", 2], ["--seed", 1]]):
        assert run_make_data(*words, "--output", f"out{i}", *more) == 0
        train, validation = (decoded(folder / f"out{i}/{name}.npy", tokenizer) for name in ("train", "validation"))
        kept, held = train.split(END)[:-1], validation.split(END)[:-1]
        assert sorted(kept + held) == sorted(DOCUMENTS)
        assert [text for text in DOCUMENTS if text in set(kept)] == kept
        assert 20 < len(held) < 60
        held_out.append(held)
    assert held_out[0] == held_out[1] != held_out[2]


def test_validation_inputs_are_kept_apart(folder: Path, run_make_data: Run, tokenizer: Tokenizer) -> None:
    (folder / "a.txt").write_text("for training")
    (folder / "b.txt").write_text("for validation")
    words = ["--tokenizer", "tok", "--output", "out"]
    assert run_make_data("--train", "a.txt", "--validation", "b.txt", *words) == 0
    assert decoded(folder / "out/train.npy", tokenizer) == "for training" + END
    assert decoded(folder / "out/validation.npy", tokenizer) == "for validation" + END
    assert run_make_data("--train", "a.txt", *words) == 0
    assert "validation.npy" not in contents(folder / "out")  # it belonged to the other config


# Special tokens


@pytest.mark.parametrize(("choice", "ids"), [("text", False), ("ids", True)])
def test_special_tokens_in_the_text_are_what_the_config_says(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, choice: str, ids: bool
) -> None:
    (folder / "a.txt").write_text(f"one {END} two")
    words = ["--train", "a.txt", "--tokenizer", "tok", "--output", "out", "--special_tokens", choice]
    assert run_make_data(*words) == 0
    tokens = TokenFile.open(folder / "out/train.npy").tokens[:].tolist()
    assert tokens.count(tokenizer.eos_id) == 1 + ids
    assert tokenizer.decode(tokens) == f"one {END} two{END}"


# Running again


def test_a_second_run_says_that_nothing_is_to_do(
    folder: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--train", *write_text(folder), "--tokenizer", "tok", "--output", "out"]
    assert run_make_data(*words) == 0
    said, before = capsys.readouterr(), contents(folder / "out")
    monkeypatch.setattr(make_data, "encode_units", lambda *_: pytest.fail("encoded again"))
    assert run_make_data(*words, "--threads", 2, "--shard_bytes", 100) == 0
    again = capsys.readouterr()
    assert again.err == "nothing to do: out was made from this config and these inputs\n"
    assert again.out == said.out
    assert "out/train.npy: " in said.out
    assert contents(folder / "out") == before


@pytest.mark.parametrize("change", ["config", "input", "damage"])
def test_another_config_or_input_or_a_damaged_file_is_made_anew(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--train", "all.txt", "--tokenizer", "tok", "--output", "out"]
    (folder / "all.txt").write_text("one|two")
    assert run_make_data(*words) == 0
    if change == "config":
        words += ["--separator", "|"]
    elif change == "input":
        (folder / "all.txt").write_text("three")
    else:
        data = bytearray((folder / "out/train.npy").read_bytes())
        data[-1] ^= 1
        (folder / "out/train.npy").write_bytes(data)
    assert run_make_data(*words) == 0
    expected = {"config": f"one{END}two{END}", "input": f"three{END}", "damage": f"one|two{END}"}
    assert decoded(folder / "out/train.npy", tokenizer) == expected[change]
    assert "will be replaced" in capsys.readouterr().err


def test_the_resolved_config_lies_beside_and_gives_the_same_again(folder: Path, run_make_data: Run) -> None:
    words = ["--train", *write_text(folder), "--tokenizer", "tok", "--output", "out", "--validation_fraction", 0.2]
    assert run_make_data(*words) == 0
    assert MakeDataConfig.load("out/make_data.toml").separator == END
    assert run_make_data("--config", "out/make_data.toml", "--output", "again") == 0
    first, second = contents(folder / "out"), contents(folder / "again")
    assert first.pop("make_data.toml") != second.pop("make_data.toml")  # they name their outputs
    assert first == second


def test_print_config_prints_the_resolved_config_and_does_nothing_else(
    folder: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "my.toml").write_text('tokenizer = "nowhere"\nseed = 7\n')
    assert run_make_data("--config", "my.toml", "--print-config", "--train", "a", "b", "--seed", 8) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["tokenizer"], printed["train"], printed["seed"]) == ("nowhere", ["a", "b"], 8)
    assert printed["errors"] == "strict"
    assert not {"config", "print_config"} & set(printed)
    (folder / "printed.toml").write_text(MakeDataConfig.parse(printed).resolved())
    assert MakeDataConfig.load("printed.toml") == MakeDataConfig.parse(printed)
    assert sorted(path.name for path in folder.iterdir()) == ["my.toml", "printed.toml", "tok"]


# Mistakes


@pytest.fixture
def corpus(folder: Path) -> Path:
    (folder / "good.txt").write_text("some good text")
    (folder / "special.txt").write_text(f"one{END}two")
    (folder / "empty.txt").write_text("")
    (folder / "bad.txt").write_bytes(b"0123456789\xff")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (folder / "one.jsonl").write_text('{"text": "a"}\n')
    (folder / "column.jsonl").write_text('{"body": "a"}\n')
    (folder / "typo.toml").write_text('vallidation = ["a"]\n')
    (folder / "type.toml").write_text('seed = "one"\n')
    (folder / "plain").mkdir()
    Tokenizer.train(["some good text"], 260, progress=False).save(folder / "plain")
    return folder


MISTAKES = [
    ("", "tokenizer: give a path"),
    ("--tokenizer tok", "output: give a path"),
    ("--tokenizer tok --output out", "train: name the files"),
    ("--tokenizer none --output out --train good.txt", "none"),
    ("--tokenizer good.txt --output out --train good.txt", "good.txt"),
    ("--tokenizer plain --output out --train good.txt", "has no end-of-text token: set eos_between_documents = false"),
    ("--tokenizer tok --output out --train none.txt", "input none.txt: there is no file"),
    ("--tokenizer tok --output out --train *.md", "no file matches"),
    ("--tokenizer tok --output out --train empty.txt", "the inputs hold no text: empty.txt"),
    ("--tokenizer tok --output out --train good.txt bad.txt", "bad.txt is not UTF-8: byte 10 is wrong"),
    ("--tokenizer tok --output out --train bad.jsonl", "bad.jsonl, line 2 is not valid JSON"),
    ("--tokenizer tok --output out --train column.jsonl", "column.jsonl, line 1: no field 'text'"),
    ("--tokenizer tok --output out --train special.txt", "special.txt holds the special token '<|endoftext|>'"),
    ("--tokenizer tok --output out --train good.txt --validation ./good.txt", "is both in train and in validation"),
    ("--tokenizer tok --output out --train good.txt --validation bad.jsonl --validation_fraction 0.1", "not both"),
    ("--tokenizer tok --output out --train good.txt --validation_fraction 0.1", "leaves a split without documents"),
    ("--tokenizer tok --output out --train one.jsonl --validation_fraction 0.1", "leaves a split without documents"),
    ("--tokenizer tok --output good.txt --train good.txt", "cannot write to output good.txt: File exists"),
    ("--validation_fraction 1", "--validation_fraction: Input should be less than 1"),
    ("--shard_bytes 0", "--shard_bytes: Input should be greater than 0"),
    ("--speical_tokens ids", "did you mean --special_tokens?"),
    ("--pint-config", "did you mean --print_config?"),
    ("--special_tokens id", "('refuse', 'text', 'ids')"),
    ("--config typo.toml", "typo.toml: unknown key 'vallidation'; did you mean 'validation'?"),
    ("--config type.toml", "type.toml: seed: Input should be a valid integer"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing_of_the_final_name(
    corpus: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    assert run_make_data(*flags.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert not list(corpus.rglob("out/*.npy*"))
    assert not (corpus / "out").exists() or "documents" in message


def test_a_refused_input_leaves_no_empty_folders(corpus: Path, run_make_data: Run) -> None:
    (corpus / "there").mkdir()
    for output in ("new/folder/out", "there/new"):
        assert run_make_data("--tokenizer", "tok", "--output", output, "--train", "special.txt") == 2
    assert not (corpus / "new").exists()
    assert list((corpus / "there").iterdir()) == []


def test_a_file_that_is_no_token_file_is_not_replaced(
    corpus: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "out").mkdir()
    (corpus / "out/validation.npy").write_text("dear to someone")
    assert run_make_data("--tokenizer", "tok", "--output", "out", "--train", "good.txt") == 2
    assert "out/validation.npy is not a complete token file" in capsys.readouterr().err
    assert (corpus / "out/validation.npy").read_text() == "dear to someone"


def test_two_processes_do_not_write_one_output(
    corpus: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "out").mkdir()
    held = os.open(corpus / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    words = ["--tokenizer", "tok", "--output", "out", "--train", "good.txt"]
    assert run_make_data(*words) == 2
    assert "output out is being written by another process" in capsys.readouterr().err
    os.close(held)
    assert run_make_data(*words) == 0


def test_a_full_disk_is_one_line_and_what_is_finished_is_kept(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--train", *write_text(folder), "--tokenizer", "tok", "--output", "out", "--shard_bytes", 2000]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size, what in ((1500, "out/.parts/000000.train.npy"), (10_000, "out/train.npy")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            assert run_make_data(*words) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        said = capsys.readouterr().err.splitlines()
        assert (
            f"cannot write {what}: File too large; what is finished is kept: run the same command to resume" in said[-1]
        )
        assert list(contents(folder / "out")) in ([], ["make_data.toml"])
    assert run_make_data(*words) == 0
    assert "resuming after" in capsys.readouterr().err
    assert decoded(folder / "out/train.npy", tokenizer) == "".join(text + END for text in DOCUMENTS)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (lambda path: path.unlink(), "input all.txt vanished while it was read"),
        (lambda path: path.write_text("another"), "input all.txt changed while it was read"),
    ],
)
def test_a_corpus_that_changes_under_the_reader_is_one_line(
    folder: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    event: Callable[[Path], object], said: str,
) -> None:  # fmt: skip
    words = ["--train", *write_text(folder), "--tokenizer", "tok", "--output", "out"]
    original = encoding.batches

    def disturbed(*arguments: object) -> object:
        event(folder / "all.txt")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding, "batches", disturbed)
    assert run_make_data(*words) == 2
    assert said in capsys.readouterr().err
    assert contents(folder / "out") == {}
