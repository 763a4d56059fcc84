"""What the documents and configs say can be run."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from lm_core.cli import parse_flags
from testbed_d.flags import Flags
from testbed_d.workload import plan

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
APP = "uv run apps/testbed_d"


def commands(name: str) -> list[str]:
    """The lines of the fenced shell blocks of the documents that contain `name`."""
    blocks = [
        block for path in DOCUMENTS for block in re.findall(r"```(?:sh|console)\n(.*?)```", path.read_text(), re.DOTALL)
    ]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if name in line]


def test_the_quick_start_is_one_block_of_two_commands() -> None:
    after = (REPOSITORY / "README.md").read_text().split("## Quick start")[1]
    block = after.split("```")[1].split("\n", 1)[1]
    assert len([line for line in block.splitlines() if line and not line.startswith("#")]) == 2


@pytest.mark.parametrize("command", commands(APP))
def test_a_documented_command_has_flags_that_exist(command: str) -> None:
    words = shlex.split(command.split(APP)[1], comments=True)
    if "--help" not in words:
        parse_flags(Flags, "testbed_d", [str(REPOSITORY / w) if w.startswith("configs/") else w for w in words])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_a_config_loads_and_makes_a_workload(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text that is long enough\n" * 1000)
    flags = Flags.load(path).model_copy(update={"text": str(text)})
    assert plan(flags).model.d_model == tomllib.loads(path.read_text())["d_model"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
