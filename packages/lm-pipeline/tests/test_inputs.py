"""Names stand for files, in a defined order, each once."""

import errno
import gzip
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lm_core.errors import UserError
from lm_pipeline.text import unpacked
from lm_pipeline.text.inputs import Choice, find_inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "sub/z.jsonl", "sub/deep/A.md", ".hidden/x.txt", "sub/.git", "README"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(*given: str, **options: Any) -> list[str]:
    return [str(file.path) for file in find_inputs(given, Choice(**options)).files]


def test_a_folder_is_all_files_in_it_by_name_but_hidden_ones(here: Path) -> None:
    assert names(".") == ["README", "a.txt", "b.txt", "sub/deep/A.md", "sub/z.jsonl"]


def test_names_keep_their_order_and_a_file_that_two_of_them_mean_is_read_once(here: Path) -> None:
    assert names("sub/z.jsonl", "b.txt", "*.txt", "./b.txt") == ["sub/z.jsonl", "b.txt", "a.txt"]


def test_a_glob_goes_down_with_two_stars(here: Path) -> None:
    assert names("**/*.md", "?.txt") == ["sub/deep/A.md", "a.txt", "b.txt"]


def test_a_name_with_brackets_is_a_file_first(here: Path) -> None:
    Path("[a].txt").touch()
    assert names("[a].txt") == ["[a].txt"]


def test_the_output_is_not_its_own_input(here: Path) -> None:
    assert names(".", but_not_in=here / "sub") == ["README", "a.txt", "b.txt"]
    with pytest.raises(UserError, match="input sub has no files in it"):
        names("sub", but_not_in=here / "sub")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.txt", "input none.txt: there is no file or folder"),
        ("*.md", r"input \*.md: no file matches"),
        ("empty", "input empty has no files in it"),
        ("c.txt.gz", "input c.txt.gz has the extension of gzip but is not compressed"),
    ],
)
def test_a_name_that_stands_for_nothing_is_named(here: Path, name: str, said: str) -> None:
    Path("empty").mkdir()
    Path("c.txt.gz").touch()
    with pytest.raises(UserError, match=said):
        names(name)


def test_a_folder_with_brackets_in_its_name_is_itself_in_a_glob_too(here: Path) -> None:
    for name in ("data[1]/x.txt", "data[1]/sub/[y]/z.txt", "data1/no.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert names("data[1]/*.txt") == ["data[1]/x.txt"]
    assert names(str(here / "data[1]/*/[y]/*")) == [str(here / "data[1]/sub/[y]/z.txt")]
    assert names("data[1]/**/*.txt") == ["data[1]/sub/[y]/z.txt", "data[1]/x.txt"]
    assert names("data[0-9]/*") == ["data1/no.txt"]


def test_a_folder_that_a_glob_meets_is_what_it_holds(here: Path) -> None:
    assert names("s*") == ["sub/deep/A.md", "sub/z.jsonl"]


def test_linked_files_and_folders_are_followed_each_once(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "in").mkdir()
    (other / "in/one.txt").touch()
    (here / "sub/linked").symlink_to(other)
    (here / "sub/again").symlink_to(other)
    (here / "sub/loop").symlink_to(here)
    (other / "in/back").symlink_to(other)
    (here / "sub/file.txt").symlink_to(here / "a.txt")
    assert names("sub") == ["sub/again/in/one.txt", "sub/deep/A.md", "sub/file.txt", "sub/loop/README",
                            "sub/loop/b.txt", "sub/z.jsonl"]  # fmt: skip
    assert names("sub/**/one.txt") == ["sub/again/in/one.txt"]


def test_what_is_no_text_is_left_out_of_a_folder_and_counted(here: Path) -> None:
    Path("sub/picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("sub/program").write_bytes(b"\x7fELF\0\0")
    Path("sub/nowhere").symlink_to("none")
    os.mkfifo("sub/pipe")
    inputs = find_inputs(["sub"])
    assert [file.path.name for file in inputs.files] == ["A.md", "z.jsonl"]
    [line] = inputs.lines()
    assert line == (
        "skipped inputs: 1 broken link (first: sub/nowhere); 2 binary files (first: sub/picture.png);"
        " 1 special file (first: sub/pipe)"
    )
    with pytest.raises(UserError, match=r"input sub/picture.png is a picture, not text"):
        names("sub/picture.png")
    with pytest.raises(UserError, match=r"input sub/p\* has no files in it that can be read; skipped inputs: 2"):
        names("sub/p*")


def test_a_folder_that_cannot_be_read_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.scandir

    def forbidden(path: str) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    for name in (".", "sub/**/*.md"):
        with pytest.raises(UserError, match="cannot read input folder sub/deep: Permission denied"):
            names(name)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.txt",), (), ["a.txt", "b.txt"]),
        (("*.txt", "*.md"), ("b.*",), ["a.txt", "sub/deep/A.md"]),
        ((), ("deep",), ["README", "a.txt", "b.txt", "sub/z.jsonl"]),
        ((), ("sub/",), ["README", "a.txt", "b.txt"]),
        (("sub/**",), ("sub/deep/**",), ["sub/z.jsonl"]),
        (("**/*.md",), (), ["sub/deep/A.md"]),
        (("sub/*",), (), ["sub/z.jsonl"]),
    ],
)
def test_patterns_choose_among_what_a_folder_holds(
    here: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    assert names(".", include=include, exclude=exclude) == expected
    assert names("b.txt", include=("*.md",), exclude=("b*",)) == ["b.txt"]  # what is named is read


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/random", "/dev/full"])
def test_a_device_is_no_text(name: str) -> None:
    with pytest.raises(UserError, match=f"input {name} is a device, not a file of text"):
        names(name)


def test_the_format_can_be_said(here: Path) -> None:
    Path("lines.txt").write_text('{"text": "a"}\n')
    assert [file.format for file in find_inputs(["lines.txt"], Choice("jsonl")).files] == ["jsonl"]
    assert [file.format for file in find_inputs(["lines.txt"], Choice("text")).files] == ["text"]
    with pytest.raises(UserError, match=r'input lines.txt holds JSON records, a line each: set format = "jsonl"'):
        names("lines.txt")
    with pytest.raises(UserError, match=r"holds JSON records.*; or leave it out: exclude = \['lines.txt'\]"):
        names(".")


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_stream_is_no_table_by_its_name(here: Path, monkeypatch: pytest.MonkeyPatch, format: Any) -> None:
    os.mkfifo("pipe")  # nobody writes to it: to open it would wait for ever
    reader, writer = os.pipe()
    monkeypatch.setattr(unpacked, "_STDIN", reader)
    for name in ("pipe", "-"):
        with pytest.raises(UserError, match=f"input {name} is {format}, which needs random access: save it to a file"):
            names(name, format=format)
    os.close(reader)
    os.close(writer)


def test_a_table_in_a_folder_is_read_unless_all_is_text(here: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), "sub/t.parquet")
    assert "sub/t.parquet" in names("sub")
    assert "sub/t.parquet" not in names("sub", format="text")
    Path("t.parquet.gz").write_bytes(gzip.compress(Path("sub/t.parquet").read_bytes()))
    with pytest.raises(UserError, match=r"input t.parquet.gz is parquet, compressed as a whole: unpack it first"):
        names("t.parquet.gz")
