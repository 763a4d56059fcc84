"""From a text to token files: every unit, and the same vocabulary in every process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.errors import UserError
from lm_pipeline.tokens.named import Corpus, load_corpus

WORDS = " the cat sat \n on the <unk> mat \n"


def write(folder: Path, pattern: str, train: str, others: str) -> Path:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / pattern.format(split)).write_text(train if split == "train" else others)
    return folder


def load(name: str, source: Path, tmp_path: Path, said: list[str] | None = None) -> Corpus:
    return load_corpus(name, str(source), "", tmp_path / "data", (said if said is not None else []).append)


def test_words_are_those_of_the_training_text_and_lines_end(tmp_path: Path) -> None:
    corpus = load("ptb", write(tmp_path / "ptb", "ptb.{}.txt", WORDS, " the dog \n"), tmp_path)
    assert corpus.tokenizer.vocab_size == len({"<unk>", "<eos>", "the", "cat", "sat", "on", "mat"})
    decoded = {split: corpus.tokenizer.decode(file.tokens[:].tolist()) for split, file in corpus.splits.items()}
    assert decoded["train"] == "the cat sat \non the <unk> mat \n"
    assert decoded["validation"] == "the <unk> \n"


def test_characters_are_those_of_the_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abc\n" * 30 + "é")
    corpus = load("tinyshakespeare", path, tmp_path)
    assert corpus.tokenizer.decode(corpus.splits["test"].tokens[:].tolist()).endswith("abc\né")


def test_bytes_are_256_whatever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "enwik8"
    path.write_bytes(bytes(range(256)) * 20)
    corpus = load("enwik8", path, tmp_path)
    assert corpus.tokenizer.vocab_size == 256
    assert b"".join(file.tokens[:].astype("u1").tobytes() for file in corpus.splits.values()) == path.read_bytes()


def test_token_files_are_made_once_for_a_text_and_anew_where_damaged(tmp_path: Path) -> None:
    source, said = write(tmp_path / "ptb", "ptb.{}.txt", WORDS, WORDS), list[str]()
    first = load("ptb", source, tmp_path, said)
    assert "train split: 33 bytes to encode" in said
    said.clear()
    load("ptb", source, tmp_path, said)
    assert not [line for line in said if "not as published" not in line]
    [path] = (tmp_path / "data").rglob("test.npy")
    ids = first.splits["test"].tokens[:].tolist()
    path.write_bytes(path.read_bytes()[:-1])
    again = load("ptb", source, tmp_path, said)
    assert again.splits["test"].tokens[:].tolist() == ids
    (source / "ptb.test.txt").write_text(" the mat \n")
    assert load("ptb", source, tmp_path).text != first.text
    assert len(list((tmp_path / "data").rglob("test.npy"))) == 2


def test_token_files_that_cannot_be_read_just_now_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "ptb", "ptb.{}.txt", WORDS, WORDS)
    load("ptb", source, tmp_path)
    before = {path: path.stat().st_ino for path in (tmp_path / "data").rglob("*")}

    def no_descriptor(_: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("lm_core.data.token_ids.open_regular", no_descriptor)
    with pytest.raises(UserError, match=r"cannot read token file .*: Too many open files"):
        load("ptb", source, tmp_path)
    assert {path: path.stat().st_ino for path in (tmp_path / "data").rglob("*")} == before


def test_the_vocabulary_is_the_same_in_every_process(tmp_path: Path) -> None:
    text = "".join(f" w{i} é{i % 7} \n" for i in range(200))
    source = write(tmp_path / "ptb", "ptb.{}.txt", text, text)
    code = "import sys; from pathlib import Path; from lm_pipeline.tokens.named import load_corpus\n"
    code += "for name, source in zip(sys.argv[2::2], sys.argv[3::2]):\n"
    code += "    print(load_corpus(name, source, '', Path(sys.argv[1]), lambda _: None).tokenizer.fingerprint)\n"
    sources = ["ptb", str(source), "tinyshakespeare", str(source / "ptb.train.txt")]
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed), *sources],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert printed[0] == printed[1]
    assert len(set(printed[0])) == 2
