"""What transformerlm-train says before a framework is loaded: configs, plans, and every mistake."""

import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.run import session
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.plan import Plan
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import folder_of, plan_run
from lm_tokenizer import Tokenizer

Run = Callable[..., int]
Planned = Callable[..., Plan]

TABLES: dict[str, Any] = {
    "data": {"train": "tokens/train.npy", "validation": "tokens/validation.npy", "tokenizer": "tok"},
    "model": {"seq_len": 16, "d_model": 16, "n_layers": 1, "n_heads": 2},
    "training": {"batch_size": 4, "max_steps": 10},
}
TOML = """
[data]
train = "tokens/train.npy"
validation = "tokens/validation.npy"
tokenizer = "tok"
[model]
seq_len = 16
d_model = 16
n_layers = 1
n_heads = 2
[training]
batch_size = 4
max_steps = 10
"""


def plan_of(config: TrainConfig) -> Plan:
    return plan_run(config, folder_of(config))


@pytest.fixture(autouse=True)
def no_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_backend(name: str) -> None:
        pytest.fail("a framework is asked for")

    monkeypatch.setattr(session, "load_backend", load_backend)


def config(**tables: Any) -> TrainConfig:
    values = {
        **TABLES,
        **{key: {**TABLES.get(key, {}), **value} for key, value in tables.items() if isinstance(value, dict)},
    }
    return TrainConfig.parse({**values, **{key: value for key, value in tables.items() if not isinstance(value, dict)}})


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def refusal(run_train: Run, workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is said to flags over the small config: one line, exit code 2, and nothing written."""

    def refused(*flags: str, toml: str = TOML) -> str:
        (workplace / "train.toml").write_text(toml)
        before = everything(workplace)
        assert run_train("--config", "train.toml", *flags) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert everything(workplace) == before
        assert err.startswith("transformerlm-train: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("transformerlm-train: error: ").strip()

    return refused


# Mistakes


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--data.train none.npy", "data.train: there is no token file none.npy"),
        ("--data.train=", "data.train: name a token file of transformerlm-make-data"),
        ("--data.validation=", "data.validation: name a token file of transformerlm-make-data, which --validation_"),
        ("--data.validation tok/vocab.json", "data.validation: token file tok/vocab.json has no sidecar"),
        ("--data.tokenizer=", "data.tokenizer: name the tokenizer"),
        ("--data.tokenizer none", "data.tokenizer: there is no tokenizer 'none'"),
        ("--data.order sorted", "--data.order"),
        ("--data.eval_tokens -1", "--data.eval_tokens: Input should be greater than or equal to 0"),
        ("--model.vocab_size 100", "model.vocab_size 100 is below the tokenizer's 300"),
        ("--model.n_heads 3", "--model: n_heads 3 does not divide d_model 16"),
        ("--model.seq_len 100000", "data.train: tokens/train.npy: "),
        ("--model.n_layer 3", "did you mean --model.n_layers?"),
        ("--step.grad_accum_steps 3", "training.batch_size 4 is not a multiple of step.grad_accum_steps 3"),
        ("--step.dtype float16", "('float32', 'bfloat16', 'float8')"),
        ("--schedule.kind cosine --schedule.warmup_steps 10", "schedule: warmup_steps 10 leaves no room"),
        ("--optimizer.name sgd", "--optimizer.name: 'sgd' is not one of 'adamw', 'kbeta', 'muon'"),
        ("--optimizer.beta1 1", "--optimizer.beta1: Input should be less than 1"),
        ("--optimizer.momentum 0.9", "--optimizer.momentum"),
        ("--training.max_steps 0", "--training.max_steps: Input should be greater than 0"),
        ("--logging.backend consol", "('console', 'wandb', 'tensorboard')"),
        ("--init_from none", "init_from: there is no folder none"),
        ("--init_from tok", "init_from: tok is neither a run folder"),
        ("--resume", "--resume: there is no run under runs/transformerlm"),
        ("--resume --save_dir tok", "tok holds no run to resume"),
        ("--save_dir", "--save_dir"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_nothing_is_written(
    refusal: Callable[..., str], flags: str, said: str
) -> None:
    assert said in refusal(*flags.split())


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[training]\nmax_step = 3", "train.toml: unknown key 'training.max_step'; did you mean 'max_steps'?"),
        ("[trainin]\nmax_steps = 3", "train.toml: unknown key 'trainin'; did you mean 'training'?"),
        ("[training]\nmax_steps = '3'", "train.toml: training.max_steps: Input should be a valid integer"),
        ("[optimizer]\nname = 'adamw'\nbeta1 = 1.0", "train.toml: optimizer.beta1: Input should be less than 1"),
        ("[optimizer]\nbeta1 = 0.9", "train.toml: optimizer.name is missing: it is one of 'adamw', 'kbeta', 'muon'"),
        ("[optimizer]\nname = 'kbeta'\nbeta2 = 0.9", "'optimizer.beta2'; it belongs to name = 'adamw'"),
        ("[data]\norder = 'sorted'", "train.toml: data.order: Input should be 'shuffled' or 'random'"),
        ("[logging]\nbackend = ['x']", "logging.backend.0: Input should be 'console', 'wandb' or 'tensorboard'"),
        ("model = 3", "train.toml: model: this is a table of keys, not a value"),
        ("[model", "train.toml is not valid TOML"),
    ],
)
def test_a_wrong_file_names_the_key_with_its_table(refusal: Callable[..., str], toml: str, said: str) -> None:
    assert said in refusal(toml=toml)


def test_token_files_of_another_tokenizer_are_refused(refusal: Callable[..., str], workplace: Path) -> None:
    Tokenizer.train(["other words " * 50], 270, ["<|endoftext|>"], progress=False).save(workplace / "other")
    assert "data.train: token file tokens/train.npy was made with another" in refusal("--data.tokenizer", "other")


def test_a_damaged_token_file_is_refused(refusal: Callable[..., str], workplace: Path) -> None:
    shutil.copytree(workplace / "tokens", workplace / "copy")
    data = bytearray((workplace / "copy/train.npy").read_bytes())
    data[200:202] = b"\xff\xff"  # an id beyond the vocabulary
    (workplace / "copy/train.npy").write_bytes(data)
    assert "data.train: token file copy/train.npy holds id 65535" in refusal("--data.train", "copy/train.npy")


def test_a_backend_of_the_log_that_is_not_installed(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
        said = refusal("--logging.backend", "console", name)
        assert said == f"logging.backend: {name} is not installed: pip install {name}, or leave it out"


def test_a_sample_that_the_tokenizer_has_no_ids_for(refusal: Callable[..., str]) -> None:
    assert "training.sample_prompt: the text holds the lone surrogate" in refusal("--training.sample_prompt", "a\ud800")


def test_a_folder_that_holds_a_run_is_left_alone(refusal: Callable[..., str], workplace: Path) -> None:
    (workplace / "run").mkdir()
    (workplace / "run/config.toml").write_text("")
    assert "run already holds a run: resume it with --resume" in refusal("--save_dir", "run")


# What a config means


def test_print_config_prints_what_comes_back_and_does_nothing_else(
    run_train: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "train.toml").write_text(TOML)
    before = everything(workplace)
    assert run_train("--config", "train.toml", "--optimizer.name", "muon", "--print_config") == 0
    said = tomllib.loads(capsys.readouterr().out)
    assert everything(workplace) == before
    assert said["optimizer"]["name"] == "muon"
    assert TrainConfig.parse(said) == config(optimizer={"name": "muon"})


def test_the_vocabulary_is_the_tokenizers_rounded_up(workplace: Path) -> None:
    assert plan_of(config()).model.vocab_size == 300
    assert plan_of(config(data={"pad_vocab_to": 64})).model.vocab_size == 320
    assert plan_of(config(model={"vocab_size": 512})).model.vocab_size == 512


def test_the_schedule_ends_with_the_run_unless_told_otherwise(workplace: Path) -> None:
    assert plan_of(config()).schedule.max_steps == 10
    assert plan_of(config(schedule={"max_steps": 30})).schedule.max_steps == 30


def test_a_budget_of_tokens_is_so_many_whole_steps(workplace: Path) -> None:
    made = plan_of(config(training={"max_tokens": 4 * 16 * 7 + 63}, schedule={"kind": "cosine"}))
    assert made.loop.max_steps == made.schedule.max_steps == 7
    assert made.kept_config["training"]["max_steps"] == 7
    assert "max_tokens" not in made.kept_config["training"]


def test_a_budget_that_is_less_than_a_batch_is_refused(workplace: Path) -> None:
    with pytest.raises(UserError, match=r"63 is less than one batch: 4 sequences of 16 tokens are 64: lower training"):
        plan_of(config(training={"max_tokens": 63}))


@pytest.mark.parametrize("order", ["shuffled", "random"])
def test_the_order_of_windows_and_the_part_of_validation_are_chosen(workplace: Path, order: str) -> None:
    plan = plan_of(config(data={"order": order, "eval_tokens": 50}))
    assert type(plan.batches).__name__ == f"{order.title()}Windows"
    assert plan.batches.batch(1).inputs.shape == (4, 16)
    assert sum(batch.tokens for batch in plan.evaluation) == 50


def test_the_config_of_the_run_folder_holds_from_any_folder(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tomllib.loads(plan_of(config(save_dir="run")).config_toml())
    assert kept["logging"]["run_name"] == "run"
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert plan_of(TrainConfig.parse(kept)).model.vocab_size == 300


# Resuming


@pytest.fixture
def begun(workplace: Path, save_run: Callable[..., Checkpoints]) -> Plan:
    """A run in the folder `run` that has saved its first step."""
    plan = plan_of(config(save_dir="run"))
    save_run(plan, 1)
    return plan


@pytest.fixture
def resumed(planned: Planned) -> Planned:
    return partial(planned, "--resume", "--save_dir", "run")


def test_a_run_is_resumed_from_its_folder_alone(begun: Plan, resumed: Planned, workplace: Path) -> None:
    (workplace / "tok").unlink()
    plan = resumed("--training.max_steps", "20")
    assert plan.checkpoint is not None
    assert plan.checkpoint.step == 1
    assert plan.kept_config == {**begun.kept_config, "training": {**begun.kept_config["training"], "max_steps": 20}}
    assert (plan.loop.max_steps, plan.schedule.max_steps) == (20, 20)
    assert plan.tokenizer.fingerprint == begun.tokenizer.fingerprint
    assert plan.tokenizer.is_saved_in(Path("run/tokenizer"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--model.n_layers 2 --model.bias", "model.n_layers is 1 in the run and 2 here: this is fixed for a run"),
        (
            "--model.n_layers 2 --model.no_bias",
            "model.n_layers is 1 in the run and 2 here; model.bias is True in the run",
        ),
        ("--optimizer.name muon", "unknown key 'optimizer.bias_correction'; it belongs to name = 'adamw'"),
    ],
)
def test_what_does_not_fit_the_run_is_named(begun: Plan, resumed: Planned, flags: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resumed(*flags.split())
    assert said in str(caught.value)


def test_the_state_of_another_optimizer_is_refused(
    begun: Plan, resumed: Planned, save_run: Callable[..., Checkpoints], workplace: Path
) -> None:
    """Also where the checkpoint is of before configs were recorded, and config.toml says another one."""
    shutil.rmtree(workplace / "run/checkpoints")
    save_run(begun, 1, config=None)
    path = workplace / "run/config.toml"
    kept = tomllib.loads(path.read_text())
    path.write_text(TrainConfig.parse({**kept, "optimizer": {"name": "kbeta"}}).resolved())
    with pytest.raises(UserError, match="its optimizer state, of adamw, does not fit the optimizer kbeta"):
        resumed()


def test_other_token_files_are_said(begun: Plan, resumed: Planned) -> None:
    notes = resumed("--data.train", "tokens/validation.npy").notes
    assert "note: data.train holds other data than the run was trained on" in notes


@pytest.mark.parametrize("damage", ["other", "gone"])
def test_the_tokenizer_in_the_folder_must_be_the_checkpoints(
    begun: Plan, resumed: Planned, workplace: Path, damage: str
) -> None:
    shutil.rmtree(workplace / "run/tokenizer")
    if damage == "other":
        Tokenizer.train(["other words " * 50], 270, [], progress=False).save(workplace / "run/tokenizer")
    with pytest.raises(UserError, match=r"^--resume: .*run/tokenizer"):
        resumed()


def test_damaged_checkpoints_are_named(begun: Plan, resumed: Planned, workplace: Path) -> None:
    [path] = (workplace / "run/checkpoints").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="no checkpoint in run/checkpoints is intact"):
        resumed()


def test_a_run_that_saved_nothing_starts_anew(begun: Plan, resumed: Planned, workplace: Path) -> None:
    shutil.rmtree(workplace / "run/checkpoints")
    plan = resumed()
    assert plan.checkpoint is None
    assert plan.model == begun.model


def test_a_model_starts_with_the_weights_of_another_run(begun: Plan) -> None:
    plan = plan_of(config(save_dir="second", init_from="run", model={"n_layers": 3, "dropout": 0.5}))
    assert plan.model == begun.model.model_copy(update={"dropout": 0.5})
    assert plan.kept_config["model"]["n_layers"] == 1
    expected = initial_arrays(begun.model, 1)
    assert all(np.array_equal(array, expected[name]) for name, array in plan.initial_weights().items())
    assert plan_of(config(init_from="run", data={"tokenizer": ""})).tokenizer.fingerprint == begun.tokenizer.fingerprint
