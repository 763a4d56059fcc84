"""Every command of the documents: its program and its flags exist, and the slow campaign runs it, on a small scale.

A command is a line of a fenced `sh` block, or an indented line that begins with one of WORDS. One that needs more than
this machine says so in its comment (`# needs a GPU`, NEEDS has them all), which alone excuses it from being run.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import lm_bench.cli
import mini_gpt.flags
import rlvr.evaluate
import rlvr.play
import rlvr.pretrain
import rlvr.train
import testbed_d.flags
import transformer_lm.flags
from lm_core.cli import parse_flags
from lm_core.config import Config
from lm_core.run.seeds import for_each_seed
from lm_pipeline.commands.evaluate import EvaluateConfig
from lm_pipeline.commands.export import ExportConfig
from lm_pipeline.commands.sweep import SweepConfig
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_tokenizer import TrainTokenizerConfig
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.inside.config import AttentionConfig
from lm_pipeline.tokens.config import MakeDataConfig

from .tools import load_tool

pytest.importorskip("mkdocs")
REPOSITORY = Path(__file__).resolve().parents[1]
FIRST = ("README.md", "packages/lm-pipeline/README.md")
"""Whose runs and files the other documents take for granted."""
DOCUMENTS = [
    *FIRST,
    *(
        name
        for pattern in ("*.md", "docs/*.md", "packages/*/README.md", "apps/*/README.md")
        for path in sorted(REPOSITORY.glob(pattern))
        if (name := path.relative_to(REPOSITORY).as_posix()) not in FIRST
    ),
]
WORDS = r"uv |make |\.ci/|python3 |torchrun |srun |mlx\.launch |sbatch "
NEEDS = re.compile(r"needs (a GPU|a Mac|the network|several machines|Ray)")

FLAGS: dict[str, type[Config]] = {
    "apps/testbed_d": testbed_d.flags.Flags,
    "apps/transformer_lm": transformer_lm.flags.Flags,
    "apps/mini_gpt/train_bpe.py": mini_gpt.flags.Flags,
    "apps/mini_gpt/sample_bpe.py": mini_gpt.flags.SampleFlags,
    "apps/gpt train": TrainConfig,
    "apps/gpt evaluate": EvaluateConfig,
    "apps/gpt attention": AttentionConfig,
    "apps/gpt sample": InferConfig,
    "apps/rlvr pretrain": rlvr.pretrain.PretrainFlags,
    "apps/rlvr train": rlvr.train.TrainFlags,
    "apps/rlvr evaluate": rlvr.evaluate.EvaluateFlags,
    "apps/rlvr play": rlvr.play.PlayFlags,
    "transformerlm-train-tokenizer": TrainTokenizerConfig,
    "transformerlm-make-data": MakeDataConfig,
    "transformerlm-train": TrainConfig,
    "transformerlm-infer": InferConfig,
    "transformerlm-export": ExportConfig,
    "transformerlm-evaluate": EvaluateConfig,
    "transformerlm-sweep": SweepConfig,
    "transformerlm-attention": AttentionConfig,
    **{f"lm-bench {name}": command.flags for name, command in lm_bench.cli.COMMANDS.items()},
}
docs = load_tool("docs")
PROGRAMS = docs.programs()
SCRIPTS = tomllib.loads((REPOSITORY / "packages/lm-pipeline/pyproject.toml").read_text())["project"]["scripts"]
MODULES = {target.partition(":")[0]: name for name, target in SCRIPTS.items()}
"""Module of a command, which torchrun starts -> its name."""
ELSEWHERE = {"make", ".ci/run", "pytest", "python", "pre-commit", "ruff", "mypy", "mkdocs", "jupyter", "pip"}
"""Tools of contributors, and installing: CI runs them, or the quick start in a fresh clone does; paths are checked."""
SHELL = {"cat", "echo"}


@dataclass(frozen=True)
class Command:
    """A line of a document."""

    document: str
    text: str
    note: str
    """Its comment."""

    @property
    def programs(self) -> list[list[str]]:
        """The words of each program of the line, without what starts it."""
        flat = re.sub(r"\$\([^)]*\)", "VALUE", self.text)
        return [_unwrapped(shlex.split(part)) for part in re.split(r" (?:\||&&) ", flat)]


def _unwrapped(words: list[str]) -> list[str]:
    if words[:2] == ["python3", "-m"]:
        words = words[2:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        while words[0].startswith("--"):
            words = words[1 if words[0] == "--isolated" else 2 :]
    if words[0] in ("torchrun", "srun", "mlx.launch"):
        words = words[words.index("-m") + 1 :]
        words[0] = MODULES.get(words[0], words[0])
    if len(words) > 1 and words[0] in PROGRAMS and words[1] in docs.subcommands(words[0]):
        words = [" ".join(words[:2]), *words[2:]]
    return words


def commands() -> Iterator[Command]:
    for document in DOCUMENTS:
        block = ""
        for line in (REPOSITORY / document).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line.startswith("```"):
                block = "" if block else line[3:] or "text"
            elif (block in ("sh", "console") and line.strip()) or (not block and re.match(rf" {{4,}}({WORDS})", line)):
                text, _, note = line.strip().partition("# ") if re.search(r"(^|\s)# ", line) else (line.strip(), "", "")
                if text:
                    yield Command(document, text.strip(), note)


COMMANDS = list(commands())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader's clone: the configs, small models in those that train, and files of their own."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("packages", "apps", "tools", "Makefile", ".ci", "README.md"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    for file, changed in SMALL_CONFIGS.items():
        text = (folder / "configs" / file).read_text()
        for key, value in changed.items():
            text, count = re.subn(rf"^(\s*{key}\s*[=:]) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
            assert count, key
        (folder / "configs" / file).write_text(text)
    shutil.copy(folder / "configs" / "train.toml", folder)
    text = "".join(f"The game of {n} was won by the company, once upon a time.\n\n" for n in range(400))
    for name in TEXTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text * (30 if name == "corpus.txt" else 1))
    for document, file in (("your_own_app", "my_app.py"), ("rlvr", "own_tasks.py")):
        [source] = re.findall(r"```python\n(.*?)```", (REPOSITORY / f"docs/{document}.md").read_text(), re.DOTALL)
        (folder / file).write_text(source)
    return folder


TEXTS = (
    "mine.txt", "held_out.txt", "start.txt", "small_enwik8.txt", "notes/a.md", "notes/letters/b.tex", "papers/c.md",
    "prompts.txt", "corpus.txt", "wiki.train.txt", "wiki.valid.txt", "wiki.test.txt", "data/enwik8",
    "data/ptb.train.txt", "data/ptb.valid.txt", "data/ptb.test.txt", "data/tinyshakespeare.txt",
)  # fmt: skip
SMALL_STUDY = {
    "budgets": "[4]", "seeds": 2, "lr": "[1e-3]", "extend": "false", "d_model": 16, "n_layer": 1, "batch": 2,
    "lmin": 8, "lmax": 16, "ctx": 16, "eval_bs": 2,
}  # fmt: skip
SMALL_CONFIGS = {
    "train.toml": {
        "seq_len": 16,
        "d_model": 16,
        "n_layers": 1,
        "n_heads": 2,
        "batch_size": 2,
        "max_steps": 4,
        "warmup_steps": 1,
    },
    "sweep.yaml": {"value": 2},
    "train_tokenizer.toml": {"vocab_size": 300},
    "study_testbed_d.toml": SMALL_STUDY,
    "study_testbed_d_short.toml": SMALL_STUDY,
}


SMALL = {
    "apps/testbed_d": "--steps 4 --d_model 16 --n_layer 1 --batch 2 --lmin 8 --lmax 16 --ctx 16 --eval_bs 2",
    "apps/transformer_lm": "--dim 16 --num_blocks 1 --num_heads 2 --context_size 8 --batch_size 2 --num_iters 4 "
    "--steps_per_eval 0 --data_dir data",
    "apps/mini_gpt/train_bpe.py": "--n_layer 1 --n_embed 16 --n_head 2 --block_size 8 --batch_size 2 "
    "--grad_accum_steps 1 --vocab_size 300 --max_steps 4 --warmup_steps 1 --eval_tokens 64",
    "apps/mini_gpt/sample_bpe.py": "--max_new_tokens 4",
    "apps/gpt train": "--model.d_model 16 --model.n_layers 1 --model.n_heads 2 --model.seq_len 16 "
    "--training.max_tokens 128 --training.batch_size 2 --source.vocab_size 300 --schedule.warmup_steps 1 "
    "--schedule.decay_steps 2",
    "apps/gpt sample": "--max_new_tokens 4",
    "apps/rlvr pretrain": "--steps 4 --batch_size 2 --d_model 16 --n_layers 1 --n_heads 2 --eval_batches 1",
    "apps/rlvr train": "--prompts 2 --samples 2 --steps 2 --save_every 0",
    "apps/rlvr evaluate": "--problems_per_level 2 --samples 2 --k 2",
    "transformerlm-evaluate": "--stride 8",
    "transformerlm-infer": "--max_new_tokens 4",
    "my_app.py": "--text mine.txt --batch 2 --width 8 --length 8 --steps 4",
    "lm-bench all": "--minutes 0.02",
    "lm-bench train": "--cases nanogpt-char --parts step --rounds 1 --steps 1",
    "lm-bench infer": "--cases nanogpt-char --rows 1 --tokens 4 --rounds 1",
    "lm-bench data": "--vocab_size 512 --rounds 1",
    "lm-bench corpus": "--size 20000 --sources notes",
    "lm-bench faults": "--short --only second --backend torch",
    "lm-bench tokenizer": "--corpora mine.txt --parts train --train_size 300 --train_rounds 1 --peers tokenizers",
}
"""Flags that are put after those of the documents."""
RESUMED = {"apps/mini_gpt/train_bpe.py": "--max_steps 4", "transformerlm-train": "--training.max_steps 6"}
"""Likewise where a run is resumed, whose shape stays."""
BEFORE = {
    "packages/lm-pipeline/README.md": "rm -r data/tokenizer data/tokens",
    "docs/evaluation.md": "transformerlm-export --output hf-folder && cp -r data/tokens tokens",
    "docs/mini_gpt.md": "python apps/mini_gpt/train_bpe.py --data_dir notes --save_dir runs/mini_gpt/20261126-101500 "
    + SMALL["apps/mini_gpt/train_bpe.py"],
    "docs/reliability.md": "cp -r runs/transformerlm/muon runs/my-run",
    "docs/transformer_lm.md": "mkdir copied mine && cp data/ptb.* mine",
    "packages/lm-bench/README.md": "cp -r runs/transformerlm/muon runs/transformerlm/a; "
    "cp -r runs/transformerlm/muon runs/transformerlm/b",
}
"""What a document takes for granted besides."""


def in_this_environment(command: Command) -> str:
    """The shell line that runs it small, by this Python."""
    text = re.sub(r"(python3 -m pip install \S+ uv && )?(python3 -m )?\buv run (--\w+ \S+ )*", "", command.text)
    text = text.replace("--nproc-per-node 8", "--nproc-per-node 2")
    name = command.programs[-1][0]
    small = RESUMED.get(name, "") if "--resume" in command.text else SMALL.get(name, "")
    if name == "apps/transformer_lm" and "--save_dir copied" in text:
        text = "cp -r runs/transformer-lm/. copied && " + text.replace("--data_dir mine", "")
    return re.sub(r"(?<!\S)(apps/|my_app\.py)", r"python \1", text) + ("" if "--help" in text else f" {small}")


@pytest.mark.slow
def test_every_command_runs(reader: Path) -> None:
    failed = []
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for document in DOCUMENTS:
        for folder in ("hf-folder", "hf", "study"):
            shutil.rmtree(reader / folder, ignore_errors=True)
        here = [command for command in COMMANDS if command.document == document and not NEEDS.search(command.note)]
        lines = [in_this_environment(command) for command in here if command.programs[-1][0] not in ELSEWHERE]
        for line in filter(None, [BEFORE.get(document), *lines]):
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=reader,
                env=environment,
                input="The\n",
                capture_output=True,
                text=True,
                timeout=900,
            )
            print(f"{document}: {done.returncode} {line}", flush=True)
            if done.returncode:
                failed.append(f"{document}: {line}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) > 80
    assert {command.document for command in COMMANDS} >= {"docs/scale.md", "docs/testbed_d.md", "CONTRIBUTING.md"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.document}: {command.text[:60]}")
def test_its_program_and_its_flags_exist(command: Command, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader)
    for name, *words in command.programs:
        program, _, subcommand = name.partition(" ")
        if name in FLAGS:
            while words and not words[0].startswith("-"):  # run folders, or a file
                words = words[1:]
            if "--help" not in words:
                for_each_seed(words, lambda alone, name=name: parse_flags(FLAGS[name], name, alone) and None)
        elif program in PROGRAMS:  # one that FLAGS does not have: whatever its help has
            shown = docs.help_of(PROGRAMS[program], *subcommand.split())
            assert {word for word in words if word.startswith("--")} <= {*re.findall(r"--[\w.-]+", shown), "--seeds"}
        elif name in ELSEWHERE | {"my_app.py"}:
            paths = [word for word in [name, *words] if "/" in word]
            assert all((REPOSITORY / path).exists() for path in paths)
        else:
            known = "a program of FLAGS, a tool of ELSEWHERE, or a comment such as `# needs a GPU`"
            assert name in SHELL or NEEDS.search(command.note), f"{name!r} of {command.document} is not {known}"


def test_the_programs_are_those_of_the_project() -> None:
    assert set(SCRIPTS) == {name for name in FLAGS if name.startswith("transformerlm-")}
    names = {name for program in PROGRAMS for name in (program, *(f"{program} {s}" for s in docs.subcommands(program)))}
    assert set(FLAGS) <= names
    assert all(importlib.import_module(module) for module in MODULES)
