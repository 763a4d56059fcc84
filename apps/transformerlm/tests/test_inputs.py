"""Names stand for files, in a defined order, each once."""

from pathlib import Path

import pytest

from lm_core.errors import UserError
from transformerlm.corpus.inputs import find_inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "sub/z.jsonl", "sub/deep/A.parquet", ".hidden/x.txt", "sub/.git", "README"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(*given: str, **options: Path) -> list[str]:
    return [str(file.path) for file in find_inputs(given, **options)]


def test_a_folder_is_all_files_in_it_by_name_but_hidden_ones(here: Path) -> None:
    assert names(".") == ["README", "a.txt", "b.txt", "sub/deep/A.parquet", "sub/z.jsonl"]


def test_names_keep_their_order_and_a_file_that_two_of_them_mean_is_read_once(here: Path) -> None:
    assert names("sub/z.jsonl", "b.txt", "*.txt", "./b.txt") == ["sub/z.jsonl", "b.txt", "a.txt"]


def test_a_glob_goes_down_with_two_stars(here: Path) -> None:
    assert names("**/*.parquet", "?.txt") == ["sub/deep/A.parquet", "a.txt", "b.txt"]


def test_a_name_with_brackets_is_a_file_first(here: Path) -> None:
    Path("[a].txt").touch()
    assert names("[a].txt") == ["[a].txt"]


def test_the_suffix_says_the_kind(here: Path) -> None:
    Path("LINES.JSONL").touch()
    kinds = {file.path.name: file.kind for file in find_inputs(["."])}
    assert kinds["LINES.JSONL"] == kinds["z.jsonl"] == "jsonl"
    assert (kinds["A.parquet"], kinds["a.txt"], kinds["README"]) == ("parquet", "text", "text")


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
        ("c.txt.gz", "input c.txt.gz is compressed: unpack it first"),
    ],
)
def test_a_name_that_stands_for_nothing_is_named(here: Path, name: str, said: str) -> None:
    Path("empty").mkdir()
    Path("c.txt.gz").touch()
    with pytest.raises(UserError, match=said):
        names(name)
