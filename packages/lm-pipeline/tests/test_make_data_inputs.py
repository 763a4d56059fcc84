"""What people hand over as text: line ends of both kinds, pipes, folders; and the advice about their mistakes."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from lm_core.data.token_file import TokenFile
from lm_pipeline.text import unpacked
from lm_tokenizer import Tokenizer

Run = Callable[..., int]
END = "<|endoftext|>"
MAKE = ("--tokenizer", "tok", "--output", "out")


def documents(tokenizer: Tokenizer, split: str = "train") -> list[str]:
    return tokenizer.decode(TokenFile.open(Path(f"out/{split}.npy")).tokens[:].tolist()).split(END)[:-1]


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("one\r\n\r\ntwo\r\n", "\n\n", ["one", "two\r\n"]),
        ("one\n\ntwo", "\r\n\r\n", ["one", "two"]),
        ("one\r\n\ntwo\r\n\r\n\r\nthree", "\n\n", ["one", "two", "\r\nthree"]),
        ("one\r\n--\r\ntwo\r", "\n--\n", ["one", "two\r"]),
    ],
)
def test_a_line_end_in_a_separator_is_met_by_both_kinds(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, text: str, separator: str, expected: list[str]
) -> None:
    Path("a.txt").write_bytes(text.encode())
    assert run_make_data("--train", "a.txt", "--separator", separator, *MAKE) == 0
    assert documents(tokenizer) == expected


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("", [], "the inputs hold no text: a.txt"),
        ("", ["--separator", "\n\n"], "the inputs hold no text: a.txt"),
        ("", ["--format", "jsonl"], "the inputs hold no text: a.txt"),
        ("one two", [], "a text file is one document unless a separator is set; set one, or give more text"),
        (
            "one two",
            ["--separator", "\n\n"],
            "the separator '\\n\\n' is nowhere in the text; set another, or give more",
        ),
        ("one|two", ["--separator", "|", "--seed", "1"], "the corpus having 2: give more text"),
        ('{"text": "a"}', ["--format", "jsonl"], "the corpus having 1: give more text, validation inputs"),
    ],
)
def test_the_advice_about_an_empty_split_is_about_these_inputs(
    folder: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str], text: str, more: list[str], said: str
) -> None:
    Path("a.txt").write_text(text)
    assert run_make_data("--train", "a.txt", "--validation_fraction", "0.01", *more, *MAKE) == 2
    line = capsys.readouterr().err
    assert said in line
    assert "set one" not in line or "--separator" not in more


def feed(path: Path, data: bytes) -> Thread:
    """A writer into a pipe."""
    writer = Thread(target=path.write_bytes, args=(data,))
    writer.start()
    return writer


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_read_once_and_never_taken_for_done(
    folder: Path, run_make_data: Run, run_train_tokenizer: Run, tokenizer: Tokenizer, pack: Callable[[bytes], bytes]
) -> None:
    os.mkfifo("pipe")
    for text in ("one|two", "three"):
        writer = feed(Path("pipe"), pack(text.encode()))
        assert run_make_data("--train", "pipe", "--separator", "|", *MAKE) == 0
        writer.join()
        assert documents(tokenizer) == text.split("|")
    writer = feed(Path("pipe"), pack(b"ab ab ab"))
    assert run_train_tokenizer("--input", "pipe", "--save_dir", "new", "--vocab_size", 258) == 0
    writer.join()


def test_of_a_pipe_the_bytes_say_the_format(folder: Path, run_make_data: Run, tokenizer: Tokenizer) -> None:
    os.mkfifo("pipe")
    for data in (b'{"text": "one"}\n{"text": "two"}\n', b'[{"text": "one"}, {"text": "two"}]'):
        writer = feed(Path("pipe"), data)
        assert run_make_data("--train", "pipe", *MAKE) == 0
        writer.join()
        assert documents(tokenizer) == ["one", "two"]


def test_a_table_in_a_pipe_is_one_line(folder: Path, run_make_data: Run, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    writer = feed(Path("pipe"), b"PAR1" + bytes(10))
    assert run_make_data("--train", "pipe", *MAKE) == 2
    writer.join()
    assert "input pipe is parquet, which needs random access: save it to a file first" in capsys.readouterr().err


def pipe_with(data: bytes) -> int:
    """A pipe's end to read from, of which the other one is closed, as of `echo data |`."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def test_standard_input_and_a_substituted_process_are_read(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped, substituted = pipe_with(b"one|two"), pipe_with(b"three")
    monkeypatch.setattr(unpacked, "_STDIN", piped)
    assert run_make_data("--train", "-", f"/dev/fd/{substituted}", "--separator", "|", *MAKE) == 0
    assert documents(tokenizer) == ["one", "two", "three"]
    os.close(piped)
    os.close(substituted)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_one_line_also_as_standard_input(
    folder: Path, run_make_data: Run, run_train_tokenizer: Run, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, device: str,
) -> None:  # fmt: skip
    assert run_make_data("--train", device, *MAKE) == 2
    assert f"input {device} is a device, not a file of text" in capsys.readouterr().err
    assert run_train_tokenizer("--input", device, "--save_dir", "new") == 2
    assert f"input {device} is a device, not a file of text" in capsys.readouterr().err
    with Path(device).open("rb") as opened:
        monkeypatch.setattr(unpacked, "_STDIN", opened.fileno())
        assert run_make_data("--train", "-", *MAKE) == 2
    assert "input -: standard input is a terminal or another device: pipe a text into it" in capsys.readouterr().err


def test_a_folder_is_read_by_patterns_and_what_is_left_out_is_said(
    folder: Path, run_make_data: Run, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in (("a.md", b"one"), ("b.txt", b"two"), ("c.md", b"\x7fELF\0"), ("old/d.md", b"three")):
        path = Path("texts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert run_make_data("--train", "texts", "--include", "*.md", "--exclude", "old", *MAKE) == 0
    assert documents(tokenizer) == ["one"]
    assert capsys.readouterr().err == "skipped inputs: 1 binary file (first: texts/c.md)\n"


def test_both_programs_read_the_same_text(folder: Path, run_train_tokenizer: Run) -> None:
    """A byte-order mark, a separator, a document in pieces: what one counts, the other encodes."""
    fingerprints = []
    for i, (data, more) in enumerate(
        [
            ("\ufeffab ab|cd cd".encode(), ["--separator", "|"]),
            (b'{"text": "ab ab"}\n{"text": "cd cd"}', ["--format", "jsonl"]),
        ]
    ):
        Path(f"{i}.txt").write_bytes(data)
        assert run_train_tokenizer("--input", f"{i}.txt", "--save_dir", f"t{i}", "--vocab_size", 260, *more) == 0
        fingerprints.append(Tokenizer.load(f"t{i}").fingerprint)
    assert fingerprints[0] == fingerprints[1]
