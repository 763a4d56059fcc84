"""A folder of one's own files is read as documents, and what is not read is counted by its reason."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_core.errors import UserError
from lm_pipeline.text import own_files
from lm_pipeline.text.own_files import OwnFiles, read_folder

ODD = os.fsdecode(b"caf\xe9.txt")


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def read(found: OwnFiles) -> dict[str, str]:
    return {document.name: document.text for document in found.documents}


def test_documents_are_the_files_of_the_known_kinds_by_name(tmp_path: Path) -> None:
    names = ["B.TXT", "a.md", "a/z.py", "b.js", "c/d/e.ts", "f.java", "g.go", "h.rs", "i.c", "j.Cpp"]
    write(tmp_path, {name: f"this is {name}" for name in reversed(names)})
    found = read_folder(tmp_path)
    assert [document.name for document in found.documents] == names
    assert read(found) == {name: f"this is {name}" for name in names}
    assert (found.skipped, found.decoded, list(found.lines())) == ({}, {}, [])


def test_include_adds_kinds_by_name_or_path(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a", "b.tex": "b", "letters/c": "c", "d.html": "d", "x/letters/e": "e"})
    assert sorted(read(read_folder(tmp_path, include=["*.tex", "letters/*"]))) == ["a.txt", "b.tex", "letters/c"]


def test_other_kinds_are_one_line_the_most_frequent_first(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a", "b.csv": "b", "c.PNG": "c", "d/e.png": "e", "Makefile": "m"})
    found = read_folder(tmp_path)
    assert found.skipped == {"another kind": ["Makefile", "b.csv", "c.PNG", "d/e.png"]}
    assert list(found.lines()) == [
        "skipped 4 files: another kind: 2 .png, 1 .csv, 1 without suffix (first: Makefile)"
    ]  # fmt: skip


def test_every_reason_has_a_line_the_most_frequent_first(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", {
        "a.txt": "a text", "z.txt": "a text", "m.txt": b"\xef\xbb\xbfa text", ".git/x.txt": "x", ".env": "y",
        ".a/b/c.md": "z", "empty.txt": "", "white.md": " \n\t\n", "mark.txt": b"\xef\xbb\xbf", "big.txt": "b" * 101,
        "fits.txt": "b" * 100, "zeros.py": b"a\0b", "zip.txt": b"PK\x03\x04rest", "packed.txt": b"\x1f\x8b\x08\xff\xff",
        ".gitignore": "*.log.txt\nbuild/\n", "c.log.txt": "c", "build/d.txt": "d",
    })  # fmt: skip
    write(tmp_path, {"other/far.txt": "far", "outside.txt": "outside"})
    (root / "far").symlink_to(tmp_path / "other")
    (root / "out.txt").symlink_to(tmp_path / "outside.txt")
    (root / "loop").symlink_to(root)
    (root / "itself.txt").symlink_to("itself.txt")
    (root / "gone.txt").symlink_to("nowhere")
    os.mkfifo(root / "pipe.txt")
    found = read_folder(root, largest_bytes=100)
    assert read(found) == {"a.txt": "a text", "fits.txt": "b" * 100}
    assert found.skipped == {
        "the same text as another file": ["m.txt", "z.txt"],
        "hidden": [".env", ".gitignore"],
        "hidden, with all below": [".a/", ".git/"],
        "empty": ["empty.txt", "mark.txt", "white.md"],
        "larger than 100 bytes": ["big.txt"],
        "binary": ["packed.txt", "zeros.py", "zip.txt"],
        "ignored by .gitignore": ["c.log.txt"],
        "ignored by .gitignore, with all below": ["build/"],
        "link that leads out of the folder": ["far/", "out.txt"],
        "link to a folder that is read already": ["loop/"],
        "broken link": ["gone.txt", "itself.txt"],
        "special file": ["pipe.txt"],
    }
    lines = list(found.lines())
    assert lines[:2] == ["skipped 3 files: binary (first: packed.txt)", "skipped 3 files: empty (first: empty.txt)"]
    assert "skipped 1 folder: link to a folder that is read already (first: loop/)" in lines
    assert len(lines) == len(found.skipped)


def test_links_inside_the_folder_are_followed_and_a_real_name_comes_first(tmp_path: Path) -> None:
    write(tmp_path, {"z/one.txt": "one", ".kept/two.txt": "two"})
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b").symlink_to(".kept")
    found = read_folder(tmp_path)
    assert read(found) == {"b/two.txt": "two", "z/one.txt": "one"}
    assert found.skipped["link to a folder that is read already"] == ["a/"]


def test_other_encodings_are_guessed_and_said(tmp_path: Path) -> None:
    russian = "Привет, мир! Это текст на русском языке, и он достаточно длинный."
    write(tmp_path, {
        "a.txt": russian.encode("cp1251"), "b.txt": (russian + "!").encode("cp1251"), "f.txt": russian.encode("cp1251"),
        "c.txt": "wide\n".encode("utf-16"), "d.txt": "\ufeffmarked",
        "e.txt": random.Random(0).randbytes(400).replace(b"\0", b"\1"),
    })  # fmt: skip
    found = read_folder(tmp_path)
    assert read(found) == {"a.txt": russian, "b.txt": russian + "!", "c.txt": "wide\n", "d.txt": "marked"}
    assert found.decoded == {"cp1251": ["a.txt", "b.txt"], "utf_16": ["c.txt"]}
    assert found.skipped == {"in no known encoding": ["e.txt"], "the same text as another file": ["f.txt"]}
    assert list(found.lines())[2:] == [
        "decoded 2 files as cp1251, a guess (first: a.txt)", "decoded 1 file as utf_16, a guess (first: c.txt)"
    ]  # fmt: skip


def test_of_encodings_that_fit_equally_well_it_is_the_most_common_one(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "café au lait, très bon".encode("cp1252")})
    found = read_folder(tmp_path)
    assert (read(found), found.decoded) == ({"a.txt": "café au lait, très bon"}, {"cp1252": ["a.txt"]})


def test_a_name_that_is_not_utf8_is_a_name(tmp_path: Path) -> None:
    write(tmp_path, {ODD: "text", ODD + ".bin": "b", ".gitignore": "*.log\n"})
    found = read_folder(tmp_path)
    assert read(found) == {ODD: "text"}
    assert r"(first: caf\xe9.txt.bin)" in next(line for line in found.lines() if ".bin" in line)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read (Permission denied)"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "vanished while the folder was read"),
    ],
)
def test_a_file_that_cannot_be_opened_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    write(tmp_path, {"a.txt": "a", "b.txt": "b"})
    original = os.open

    def opened(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith("b.txt"):
            raise error
        return original(path, *rest, **options)

    monkeypatch.setattr(os, "open", opened)
    found = read_folder(tmp_path)
    assert (list(read(found)), found.skipped) == (["a.txt"], {reason: ["b.txt"]})


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"longer than before"),
        lambda path: os.truncate(path, 1),
        lambda path: os.utime(path, ns=(1, 1)),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    write(tmp_path, {"a.txt": "a", "b.txt": "before"})
    original = os.read

    def reading(descriptor: int, size: int) -> bytes:
        if size == len("before") + 1:
            change(tmp_path / "b.txt")
        return original(descriptor, size)

    monkeypatch.setattr(os, "read", reading)
    found = read_folder(tmp_path)
    assert (list(read(found)), found.skipped) == (["a.txt"], {"changed while it was read": ["b.txt"]})


def test_a_file_that_is_read_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.txt": "in several parts"})
    original = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: original(descriptor, min(size, 3)))
    assert read(read_folder(tmp_path)) == {"a.txt": "in several parts"}


def test_a_folder_that_cannot_be_read_is_counted_and_the_first_one_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a.txt": "a", "shut/b.txt": "b"})
    original = os.scandir

    def forbidden(path: str) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    found = read_folder(tmp_path)
    assert (list(read(found)), found.skipped) == (["a.txt"], {"cannot be read (Permission denied)": ["shut/"]})
    with pytest.raises(UserError, match=r"cannot read folder .*shut: Permission denied"):
        read_folder(tmp_path / "shut")


def test_a_folder_without_a_usable_text_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read folder .*none: No such file or directory"):
        read_folder(tmp_path / "none")
    with pytest.raises(UserError, match="is empty: there is nothing to read in it"):
        read_folder(tmp_path)
    write(tmp_path, {"a.png": "a", "b.txt": ""})
    with pytest.raises(UserError) as caught:
        read_folder(tmp_path)
    assert str(caught.value) == (
        f"folder {tmp_path} has no text that can be used: skipped 1 file: another kind: 1 .png (first: a.png);"
        " skipped 1 file: empty (first: b.txt)"
    )
    with pytest.raises(UserError, match=r"cannot read folder .*a.png: Not a directory"):
        read_folder(tmp_path / "a.png")


def test_more_text_than_the_memory_may_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.txt": "five5", "b.txt": "five6"})
    monkeypatch.setattr(own_files, "MOST_CHARACTERS", 9)
    with pytest.raises(UserError, match="has more than 9 characters of text: give a part of it"):
        read_folder(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_names_are_listed_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(7)
    names = {f"{rng.choice(['', 'a/', 'b/c/', 'b/.d/'])}{i}.{rng.choice(['txt', 'md', 'png'])}" for i in range(30)}
    write(tmp_path, {name: rng.choice(["x", "y", "", name]) for name in sorted(names)})
    for link, target in (
        ("l", "a"),
        ("b/m", "../a"),
        ("b/up", ".."),
        ("a/n", "../b/.d"),
        ("k", "b/.d"),
        ("j", "b/.d"),
        ("b/i", ".d"),
        ("g.txt", "h"),
    ):
        (tmp_path / link).symlink_to(target)
    expected = read_folder(tmp_path)
    original, shuffle = os.scandir, random.Random(seed)

    class Shuffled(list[os.DirEntry[str]]):
        def __enter__(self) -> "Shuffled":
            return self

        def __exit__(self, *_: object) -> None:
            return

    def shuffled(path: str) -> Shuffled:
        with original(path) as found:
            entries = list(found)
        return Shuffled(shuffle.sample(entries, len(entries)))

    monkeypatch.setattr(os, "scandir", shuffled)
    assert read_folder(tmp_path) == expected


def test_the_folder_may_be_given_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "mine", {"a/b.txt": "b", "c.txt": "c"})
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (root, ".", f"{root}/", tmp_path / "link", "../mine", "~/mine"):
        assert read(read_folder(given)) == {"a/b.txt": "b", "c.txt": "c"}
