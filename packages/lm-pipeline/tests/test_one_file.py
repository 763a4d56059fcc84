"""Text comes in whole or not at all, and the standard library's is the same in every process."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.errors import UserError
from lm_pipeline.text.one_file import read_text, split, standard_library_text

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_text(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@given(texts.filter(lambda text: not text.startswith("\ufeff")), st.booleans())
def test_text_is_read_as_it_is_without_its_byte_order_mark(
    tmp_path_factory: pytest.TempPathFactory, text: str, mark: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "text.txt"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    assert read_text(path) == text


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.txt")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"], ids=["nothing", "only a byte-order mark"])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(data)
    assert "empty" in refusal(path)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/random", "/dev/null", "pipe", "link"])
def test_a_device_or_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert "not a regular file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"text": "a"}', "is jsonl by its name, and not plain text"),
        ("a.JSON", b"[]", "rename it to .txt to train on it as it is"),
        ("a.csv", b"text\na", "is csv by its name"),
        ("a.parquet", b"PAR1", "is a table (parquet): give a plain text"),
        ("a.txt", gzip.compress(b"text", mtime=0), "is compressed by gzip: unpack it first"),
        ("a.gz", b"text", "has the extension of gzip but is not compressed"),
        ("a.txt", b"%PDF-1.7", "is a PDF document: give a plain text"),
    ],
)
def test_what_is_not_plain_text_is_refused_with_what_to_do(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in refusal(tmp_path / name)


def test_a_text_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "has 1,099,511,627,776 bytes, and at most 4,294,967,296 are read: give a part of it" in refusal(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["without mark", "with mark"])
@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_file_cut_inside_a_character_is_told_from_one_with_a_bad_byte(
    tmp_path: Path, mark: bytes, character: str
) -> None:
    path = tmp_path / "cut.txt"
    good = mark + b"abc" + character.encode()
    for cut in range(len(mark) + 4, len(good)):
        path.write_bytes(good[:cut])
        assert "cut inside a character at its end" in refusal(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["without mark", "with mark"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe9 Latin-1", b"\xc0\x80", b"\xed\xa0\x80", b"\x80"])
def test_a_bad_byte_is_named_by_its_place_in_the_file(tmp_path: Path, mark: bytes, bad: bytes) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(mark + "é".encode() * 5 + bad + b" and more")
    assert f"byte {len(mark) + 10} is not valid UTF-8" in refusal(path)


# Splits and the text that is always there


@given(st.text(), st.floats(0, 1, exclude_max=True))
def test_a_split_loses_nothing_and_holds_out_the_end(text: str, val_frac: float) -> None:
    train, validation = split(text, val_frac)
    assert train + validation == text
    assert len(validation) == int(len(text) * val_frac)


def test_the_standard_library_text_is_the_same_in_every_process(tmp_path: Path) -> None:
    program = (
        "import hashlib; from lm_pipeline.text.one_file import standard_library_text as text;"
        "print(hashlib.sha256(text(1_000_000).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert hashes == {hashlib.sha256(standard_library_text(1_000_000).encode()).hexdigest()}


def test_the_standard_library_text_is_ascii_of_the_length_asked_for_and_a_shorter_one_is_its_beginning() -> None:
    text = standard_library_text(300_000)
    assert len(text) == 300_000
    assert text.isascii()
    assert text.startswith(standard_library_text(1000))
    assert len(set(text)) < 100


def test_an_installation_without_a_standard_library_is_told_to_give_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(UserError, match="--text"):
        standard_library_text()
