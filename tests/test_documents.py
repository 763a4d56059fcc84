"""What the documents and configs say can be run."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from lm_core.cli import parse_flags
from testbed_d.flags import Flags
from testbed_d.workload import plan
from transformerlm.make_data_config import MakeDataConfig
from transformerlm.program import ProgramConfig
from transformerlm.train_tokenizer import TrainTokenizerConfig

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "apps" / "transformerlm" / "README.md",
]  # fmt: skip
APP = "uv run apps/testbed_d"
PROGRAMS: dict[str, type[ProgramConfig]] = {
    "transformerlm-train-tokenizer": TrainTokenizerConfig,
    "transformerlm-make-data": MakeDataConfig,
}
CONFIGS = {path.name: path for path in sorted((REPOSITORY / "configs").glob("*.toml"))}


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


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_documented_commands_of_transformerlm_have_flags_that_exist(program: str) -> None:
    for command in commands(f"uv run {program}"):
        words = shlex.split(command.split(program)[1], comments=True)
        if "--help" not in words:
            words = [str(REPOSITORY / word) if word.startswith("configs/") else word for word in words]
            parse_flags(PROGRAMS[program], program, words)


def test_every_config_is_loaded_here() -> None:
    assert set(CONFIGS) == {"testbed_d.toml", "train_tokenizer.toml", "make_data.toml"}


@pytest.mark.parametrize(("name", "cls"), [("train_tokenizer", TrainTokenizerConfig), ("make_data", MakeDataConfig)])
def test_a_config_of_transformerlm_loads_and_comes_back_when_printed(name: str, cls: type[ProgramConfig]) -> None:
    config = cls.load(CONFIGS[f"{name}.toml"])
    assert cls.parse(tomllib.loads(config.resolved())) == config


def test_the_two_configs_of_transformerlm_fit_together() -> None:
    train = TrainTokenizerConfig.load(CONFIGS["train_tokenizer.toml"])
    make = MakeDataConfig.load(CONFIGS["make_data.toml"])
    assert make.tokenizer == train.save_dir
    assert make.train == train.input
    assert not make.eos_between_documents or "<|endoftext|>" in train.special_tokens


def test_the_config_of_testbed_d_makes_a_workload(tmp_path: Path) -> None:
    path, text = CONFIGS["testbed_d.toml"], tmp_path / "text.txt"
    text.write_text("some text that is long enough\n" * 1000)
    flags = Flags.load(path).model_copy(update={"text": str(text)})
    assert plan(flags).model.d_model == tomllib.loads(path.read_text())["d_model"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
