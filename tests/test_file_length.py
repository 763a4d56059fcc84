"""A Python file holds one noun: none has more than 400 lines."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ["packages", "apps", "tests", "tools"]
MOST = 400


def test_no_python_file_has_more_than_400_lines() -> None:
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 300, "the folders are where they are looked for"
    lengths = {path.relative_to(REPOSITORY): len(path.read_text().splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > MOST} == {}
