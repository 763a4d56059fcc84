"""A person's own text: a file, a folder or the standard library, in two parts of which nothing is lost."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.errors import UserError
from lm_pipeline.text.own_text import OwnText, read_own_text

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not text.isspace() and "\0" not in text and "\r" not in text and not text.startswith("\ufeff")
)


def written(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


@given(words)
def test_a_file_is_cut_by_position_and_nothing_is_lost(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "one.txt"
    path.write_bytes(text.encode())
    own = read_own_text(str(path), "")
    assert own.train[0] + own.validation[0] == text
    assert len(own.validation[0]) == len(text) // 10
    assert own.notes == ()


def test_each_document_of_a_folder_is_on_one_side(tmp_path: Path) -> None:
    texts = {f"d{i}": f"document {i}" for i in range(50)}
    own = read_own_text("", written(tmp_path, **texts))
    assert sorted((*own.train, *own.validation)) == sorted(texts.values())
    assert 0 < len(own.validation) < 20
    assert "50 documents" in own.name


def test_a_folder_with_one_document_is_cut_by_position(tmp_path: Path) -> None:
    own = read_own_text("", written(tmp_path, only="0123456789"))
    assert (own.train, own.validation) == (("012345678",), ("9",))


def test_what_is_skipped_is_reported(tmp_path: Path) -> None:
    written(tmp_path, a="text", b="more", empty="")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n")
    notes = " ".join(read_own_text("", str(tmp_path)).notes)
    assert "photo.png" in notes
    assert "empty" in notes


def test_another_encoding_is_guessed_and_reported(tmp_path: Path) -> None:
    text = "Заметка на вторник: купить хлеб и молоко."
    (tmp_path / "note.txt").write_text(text, encoding="cp1251")
    own = read_own_text(str(tmp_path / "note.txt"), "")
    assert own.train[0] + own.validation[0] == text
    assert "cp1251" in own.notes[0]


def test_without_a_file_or_a_folder_it_is_the_standard_library() -> None:
    own = read_own_text("", "")
    assert len(own.train[0]) == 4_500_000
    assert "standard library" in own.notes[0]


def test_the_hash_tells_texts_and_their_ends_apart() -> None:
    def sha1(train: tuple[str, ...], validation: tuple[str, ...]) -> str:
        return OwnText("", train, validation).sha1

    parts = [(("ab",), ("c",)), (("a", "b"), ("c",)), (("a",), ("b", "c")), (("ab", "c"), ()), (("ab",), ("d",))]
    assert len({sha1(*part) for part in parts}) == len(parts)
    assert sha1(*parts[0]) == sha1(("ab",), ("c",))


@pytest.mark.parametrize(
    ("data_file", "data_dir", "include", "said"),
    [
        ("a.txt", ".", (), "contradict"),
        ("a.txt", "", ("*.tex",), "data_dir"),
        ("missing.txt", "", (), "No such file"),
        (".", "", (), "directory"),
        ("", "missing", (), "No such file"),
        ("", "empty", (), "is empty"),
        ("", "pictures", (), "1 .png"),
        ("blank.txt", "", (), "is empty"),
        ("pipe", "", (), "not a regular file"),
        ("zip.txt", "", (), "zip archive"),
        ("wide.txt", "", (), "UTF-16"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_file: str, data_dir: str, include: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "zip.txt").write_bytes(b"PK\x03\x04")
    (tmp_path / "wide.txt").write_bytes("wide".encode("utf-16"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=said) as caught:
        read_own_text(data_file, data_dir, include)
    assert "\n" not in str(caught.value)
