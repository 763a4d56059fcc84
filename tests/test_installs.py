"""No documented or printed command takes a package of this project from an index, where its name is a stranger's."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {path.parent.name: path.parent for path in sorted(REPOSITORY.glob("*/*/pyproject.toml"))}
PROJECTS = {
    tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]: folder
    for folder in FOLDERS.values()
}
SOURCES = [
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "*/*/*.md",
        "*/*/src/**/*.py",
        "tools/*.py",
        "Makefile",
        ".ci/*",
        ".github/**/*",
    )
    for path in sorted(REPOSITORY.glob(pattern))
    if path.is_file()
]
_COMMAND = re.compile(r"(?:pip install|pip3 install|uv add|uvx|uv tool install|uv tool run|pipx \w+)\s+([^`\n&|;#(]*)")


def wrong(text: str) -> Iterator[str]:
    """What a text's commands would take from an index."""
    for command in _COMMAND.findall(text):
        words = [word.strip("\"'").rstrip("\"',.)") for word in command.split()]
        given = {Path(word).name for word in words if word.startswith("./")}
        for word in words:
            name = re.split(r"[\[<>=~!@ ]", word)[0].lower().replace("_", "-")
            if name in PROJECTS:
                yield f"{word} is a name in an index"
        for folder in given & FOLDERS.keys():
            yield from (f"{folder} needs ./{needed}" for needed in siblings(folder) - given)


def siblings(folder: str) -> set[str]:
    """The folders of the packages that one stands on, through others too."""
    project = tomllib.loads((FOLDERS[folder] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[\[<>=~!; ]", requirement)[0] for requirement in project["dependencies"]} & PROJECTS.keys()
    direct = {PROJECTS[name].name for name in names}
    return direct.union(*map(siblings, direct))


def test_no_command_takes_a_sibling_from_an_index() -> None:
    found = {path.relative_to(REPOSITORY).as_posix(): list(wrong(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {path: said for path, said in found.items() if said} == {}
    assert len(found) > 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`pip install lm-torch`", ["lm-torch is a name in an index"]),
        ('pip install "lm_core[wandb]>=1"', ["lm_core[wandb]>=1 is a name in an index"]),
        ("pip install ./packages/lm-torch", ["lm-torch needs ./lm-core"]),
        ("pip install ./packages/lm-core ./packages/lm-torch", []),
        ("python3 -m pip install -q uv && uv run pytest", []),
        ("uv tool install lm-pipeline", ["lm-pipeline is a name in an index"]),
    ],
)
def test_the_guard_notices(text: str, said: list[str]) -> None:
    assert list(wrong(text)) == said


def test_the_readme_names_the_folders_and_says_where_it_does_not_run() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "pip install ./packages/lm-core ./packages/lm-torch" in text
    assert "Windows is not supported" in text
