"""What .gitignore leaves out is what git leaves out."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lm_pipeline.text.own_files import read_folder

RULES = {
    "whitelist": {".gitignore": "*\n!*/\n!*.md\n"},
    "negated": {".gitignore": "*.txt\n!keep.txt\n", "sub/.gitignore": "keep.txt\n!a.txt\n"},
    "a folder shuts": {".gitignore": "sub/\n!sub/keep.txt\n", "sub/.gitignore": "!keep.txt\n"},
    "what is in it": {".gitignore": "sub/*\n!sub/deep/\n", "sub/deep/.gitignore": "/a.txt\n"},
    "anchored": {".gitignore": "/a.txt\nsub/b.md\n**/deep/keep.txt\n", "sub/.gitignore": "deep/**\n!deep/a.txt\n"},
    "only folders": {".gitignore": "a.txt/\nname\\ /\ndeep/\nother//\n", "sub/.gitignore": "!deep/\n"},
    "spelling": {".gitignore": "\ufeff*.md\r\n#b\n\\#c.txt\n\\!d.txt\nkeep.txt   \n!\n\\\n[z-a]\n?.txt\n[\n"},
    "classes": {".gitignore": "[ab].txt\n![!b].txt\n*.m[!x]\n"},
}
NAMES = ("a.txt", "b.md", "keep.txt", "sub/a.txt", "sub/b.md", "sub/keep.txt", "sub/deep/a.txt", "sub/deep/b.md",
         "sub/deep/keep.txt", "#c.txt", "!d.txt", "other/deep/keep.txt", "other/b.txt", "long.txt",
         "name /x.txt")  # fmt: skip


def git(*arguments: str, folder: Path) -> list[str]:
    """The names that git prints, without any setting of this machine."""
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(["git", *arguments], cwd=folder, env=home, check=True, capture_output=True)
    return sorted(os.fsdecode(name) for name in done.stdout.split(b"\0") if name)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())


@pytest.mark.skipif(not shutil.which("git"), reason="git is what it is compared with")
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_as_git_reads_them(tmp_path: Path, rules: dict[str, str]) -> None:
    write(tmp_path, {name: name for name in NAMES} | rules)
    git("init", "-q", folder=tmp_path)
    expected = [
        name for name in git("ls-files", "-z", "-o", "--exclude-standard", folder=tmp_path) if "/." not in f"/{name}"
    ]
    assert expected
    assert len(expected) < len(NAMES)
    assert [document.name for document in read_folder(tmp_path).documents] == expected


def names(folder: Path) -> list[str]:
    return [document.name for document in read_folder(folder).documents]


def test_a_part_of_a_repository_obeys_the_rules_above_it(tmp_path: Path) -> None:
    write(tmp_path, {name: name for name in NAMES} | {".gitignore": "b.md\n/sub/deep/a.txt\n"})
    write(tmp_path.parent, {".gitignore": "*"})
    (tmp_path / ".git").mkdir()
    assert names(tmp_path / "sub") == ["a.txt", "deep/keep.txt", "keep.txt"]
    assert names(tmp_path / "sub/deep") == ["keep.txt"]
    (tmp_path / ".git").rmdir()
    assert names(tmp_path / "sub/deep") == ["a.txt", "b.md", "keep.txt"]  # no repository holds what lies above


def test_an_ignored_folder_that_is_named_itself_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "data/a.txt": "a",
            "data/b.md": "b",
            "data/c.md": "c",
            ".gitignore": "data/\n*.md\n",
            "data/.gitignore": "b.*\n",
        },
    )
    (tmp_path / ".git").mkdir()
    assert names(tmp_path / "data") == ["a.txt", "c.md"]


def test_a_gitignore_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a", "sub/b.txt": "b"})
    (tmp_path / "sub/.gitignore").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / ".gitignore").symlink_to("a.txt")  # which git does not follow
    found = read_folder(tmp_path)
    assert [document.name for document in found.documents] == ["a.txt", "sub/b.txt"]
    assert sum("sub/.gitignore" in skipped for skipped in found.skipped.values()) == 2
