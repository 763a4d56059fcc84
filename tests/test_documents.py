"""What the documents and configs say can be run."""

import re
import tomllib
from pathlib import Path

import pytest

import transformer_lm.flags
import transformer_lm.workload
from lm_core.cli import parse_flags
from lm_core.config import ModelConfig
from lm_core.interchange.folder import architecture_of
from lm_core.model.parameters import parameter_count
from lm_core.run.folder import RunFolder
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_resume import schedule_of
from lm_pipeline.commands.train_tokenizer import TrainTokenizerConfig
from lm_pipeline.generation.config import InferConfig
from lm_pipeline.program import ProgramConfig
from lm_pipeline.tokens.config import MakeDataConfig
from lm_pipeline.trials.config import read_sweep, trials_of
from testbed_d.flags import Flags
from testbed_d.workload import plan

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "packages" / "lm-pipeline" / "README.md",
    REPOSITORY / "apps" / "transformer_lm" / "README.md", REPOSITORY / "apps" / "mini_gpt" / "README.md",
    REPOSITORY / "apps" / "gpt" / "README.md", REPOSITORY / "apps" / "rlvr" / "README.md",
]  # fmt: skip
# Those of the benchmarks are loaded by lm-bench's tests, those of studies by test_studies.
CONFIGS = {p.name: p for p in sorted((REPOSITORY / "configs").iterdir()) if not p.name.startswith(("bench_", "study_"))}


def test_the_quick_start_is_one_block_of_two_commands() -> None:
    after = (REPOSITORY / "README.md").read_text().split("## Quick start")[1]
    block = after.split("```")[1].split("\n", 1)[1]
    assert len([line for line in block.splitlines() if line and not line.startswith("#")]) == 2


def test_every_config_is_loaded_here() -> None:
    of_transformerlm = {"train_tokenizer.toml", "make_data.toml", "train.toml", "infer.toml", "sweep.yaml"}
    of_gpt = {"gpt2_tiny.toml", "gpt2_small.toml", "gpt2_medium.toml"}
    assert set(CONFIGS) == {*of_gpt, "testbed_d.toml", "transformer_lm.toml", "rlvr_arithmetic.toml", *of_transformerlm}


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("train_tokenizer", TrainTokenizerConfig), ("make_data", MakeDataConfig), ("train", TrainConfig),
        ("infer", InferConfig),
    ],
)  # fmt: skip
def test_a_config_of_transformerlm_loads_and_comes_back_when_printed(name: str, cls: type[ProgramConfig]) -> None:
    config = cls.load(CONFIGS[f"{name}.toml"])
    assert cls.parse(tomllib.loads(config.resolved())) == config


def test_the_configs_of_transformerlm_fit_together() -> None:
    tokenizer = TrainTokenizerConfig.load(CONFIGS["train_tokenizer.toml"])
    make = MakeDataConfig.load(CONFIGS["make_data.toml"])
    train = TrainConfig.load(CONFIGS["train.toml"])
    assert make.tokenizer == train.data.tokenizer == tokenizer.save_dir
    assert make.train == tokenizer.input
    assert make.validation or make.validation_fraction
    assert not make.eos_between_documents or "<|endoftext|>" in tokenizer.special_tokens
    assert (train.data.train, train.data.validation) == (f"{make.output}/train.npy", f"{make.output}/validation.npy")


def test_the_model_of_the_train_config_can_be_exported_and_is_small() -> None:
    shape = TrainConfig.load(CONFIGS["train.toml"]).model.model_dump()
    vocab_size = TrainTokenizerConfig.load(CONFIGS["train_tokenizer.toml"]).vocab_size
    model = ModelConfig(**{**shape, "vocab_size": vocab_size})
    architecture_of(model)
    assert 1e6 < parameter_count(model) < 2e6


@pytest.mark.parametrize(("name", "millions"), [("tiny", 1.33), ("small", 124.5), ("medium", 355.0)])
def test_a_config_of_gpt_is_a_gpt_2_of_its_size_with_a_budget_that_its_schedule_fits(
    name: str, millions: float
) -> None:
    config = TrainConfig.load(CONFIGS[f"gpt2_{name}.toml"])
    vocab_size = config.source.vocab_size if name == "tiny" else 50_304
    shape = ModelConfig(**{**config.model.model_dump(), "vocab_size": vocab_size})
    assert architecture_of(shape).model_type == "gpt2"
    assert parameter_count(shape) / 1e6 == pytest.approx(millions, rel=0.02)
    steps = config.training.max_tokens // (config.training.batch_size * shape.seq_len)
    training = config.training.model_copy(update={"max_steps": steps})
    schedule = schedule_of(config.model_copy(update={"training": training}))
    assert schedule.warmup_steps < steps - schedule.decay_steps
    assert config.training.batch_size % config.step.grad_accum_steps == 0


@pytest.mark.parametrize("name", ["adamw", "kbeta", "muon"])
def test_the_train_config_takes_every_optimizer(name: str) -> None:
    flags = ["--config", str(CONFIGS["train.toml"]), "--optimizer.name", name]
    assert parse_flags(TrainConfig, "train", flags).optimizer.name == name


def test_every_trial_of_the_sweep_has_flags_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    trials = trials_of(read_sweep(str(CONFIGS["sweep.yaml"])), 0, 0)
    assert len(trials) == 6
    for trial in trials:
        assert parse_flags(TrainConfig, "train", trial.words).training.max_steps == 200


def test_the_config_of_transformer_lm_has_every_key_and_is_small() -> None:
    path = CONFIGS["transformer_lm.toml"]
    assert {"config", *tomllib.loads(path.read_text())} == set(transformer_lm.flags.Flags.model_fields)
    flags = transformer_lm.flags.Flags.load(path)
    assert parameter_count(transformer_lm.workload.model_of(flags, 10_000)) < 1e7


def test_the_config_of_testbed_d_makes_a_workload(tmp_path: Path) -> None:
    path, text = CONFIGS["testbed_d.toml"], tmp_path / "text.txt"
    text.write_text("some text that is long enough\n" * 1000)
    flags = Flags.load(path).model_copy(update={"text": str(text)})
    assert plan(flags, RunFolder(tmp_path / "run")).model.d_model == tomllib.loads(path.read_text())["d_model"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
