"""transformerlm from text to text on either backend: training, the run folder, a kill, resuming, inference."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.log import TIMING_FIELDS, RunLog
from lm_pipeline.commands import export, infer, make_data, sweep, train, train_tokenizer
from lm_tokenizer import Tokenizer

BACKENDS = ["torch", "mlx"]
END = "<|endoftext|>"
CONFIG = """
seed = 3
[data]
train = "tokens/train.npy"
validation = "tokens/validation.npy"
tokenizer = "tok"
[model]
seq_len = 16
d_model = 16
n_layers = 2
n_heads = 2
norm = "rms"
mlp = "swiglu"
positions = "rope"
bias = false
dropout = 0.1
[schedule]
kind = "cosine"
peak_lr = 1e-2
warmup_steps = 5
[optimizer]
name = "adamw"
grad_clip = 1.0
[step]
grad_accum_steps = 2
[training]
batch_size = 4
max_steps = 60
log_every = 1
eval_every = 20
save_every = 10
sample_tokens = 20
"""
KILLED_AT_37 = """
import os, signal, sys
from lm_core.run.log import RunLog
from lm_pipeline.commands import train
record = RunLog.record
def and_die(self, kind, step, values):
    record(self, kind, step, values)
    if step == 37:
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.record = and_die
sys.exit(train.main())
"""
Program = Callable[..., int]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first two command lines make of a text with something to learn in it."""
    folder = tmp_path_factory.mktemp("material")
    text = END.join(f"The square of {i} is {i * i}, and its double is {2 * i}." for i in range(150))
    (folder / "text.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = "--input text.txt --vocab_size 300 --save_dir tok --threads 1"
        patch.setattr(sys, "argv", ["x", *flags.split()])
        assert train_tokenizer.main() == 0
        flags = f"--train text.txt --tokenizer tok --output tokens --separator {END} --validation_fraction 0.1"
        patch.setattr(sys, "argv", ["x", *flags.split(), "--threads", "1"])
        assert make_data.main() == 0
    return folder


@pytest.fixture
def workplace(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the tokenizer, the token files, and a config."""
    for name in ("tok", "tokens"):
        (tmp_path / name).symlink_to(material / name)
    (tmp_path / "train.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    def called(program: Any, *flags: str) -> int:
        monkeypatch.setattr(sys, "argv", ["program", *flags])
        code: int = program.main()
        return code

    return called


def records(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """The metrics of a run without the fields that measure time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_FIELDS} for line in lines if kind in line["kind"]]


def newest(folder: Path) -> Checkpoint:
    checkpoint = Checkpoints(folder / "checkpoints").newest(pytest.fail)
    assert checkpoint is not None
    return checkpoint


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, optimizer state and log are equal to the bit."""
    a, b = newest(ours), newest(theirs)
    assert a.step == b.step == 60
    assert a.path.name == b.path.name, "the name is the hash of the weights"
    for name, array in a.optimizer_state.items():
        assert array.tobytes() == b.optimizer_state[name].tobytes(), name
    assert records(ours) == records(theirs)


@pytest.fixture(scope="module")
def whole(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of 60 steps that nothing disturbed, once for each backend."""
    folders: dict[str, Path] = {}

    def run(backend: str) -> Path:
        if backend not in folders:
            folder = tmp_path_factory.mktemp(backend)
            (folder / "train.toml").write_text(CONFIG)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(material)
                flags = [
                    "--config",
                    str(folder / "train.toml"),
                    "--save_dir",
                    str(folder / "run"),
                    "--backend",
                    backend,
                ]
                patch.setattr(sys, "argv", ["train", *flags])
                assert train.main() == 0
            folders[backend] = folder / "run"
        return folders[backend]

    return run


# Training


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_learns_and_its_folder_has_everything(
    whole: Callable[[str], Path], backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole(backend)
    evals = records(run, "eval")
    assert [record["step"] for record in evals] == [1, 20, 40, 60]
    assert evals[-1]["loss_nats"] < evals[0]["loss_nats"] - 1
    names = {"loss_nats", "bits_per_token", "bits_per_byte"}
    assert names | {"perplexity"} <= evals[0].keys()
    assert names | {"lr", "grad_norm"} <= records(run, "train")[0].keys()
    present = {path.name for path in run.iterdir()}
    assert {"config.toml", "tokenizer", "metrics.jsonl", "checkpoints", "samples.txt", "report.html"} <= present
    assert json.loads((run / "result.json").read_text())["metrics.val_loss"] == evals[-1]["loss_nats"]
    tokenizer = Tokenizer.load(run / "tokenizer")
    metadata = newest(run).metadata
    assert metadata["tokenizer"] == {"kind": "bpe", "fingerprint": tokenizer.fingerprint}
    assert len(list((run / "checkpoints").glob("*.metadata"))) in (2, 3), "the latest two, and the best"
    assert not list(run.rglob("*.new"))


def test_bits_per_byte_counts_the_bytes_of_the_text(whole: Callable[[str], Path], material: Path) -> None:
    record = records(whole("torch"), "eval")[-1]
    sidecar = json.loads((material / "tokens/validation.npy.json").read_text())
    # The first token is no target; its byte or bytes are not counted.
    expected = record["bits_per_token"] * (sidecar["tokens"] - 1) / sidecar["bytes"]
    assert record["bits_per_byte"] == pytest.approx(expected, rel=5e-3)
    assert record["perplexity"] == pytest.approx(np.exp(record["loss_nats"]))


def test_both_backends_log_the_same_losses(whole: Callable[[str], Path]) -> None:
    ours, theirs = (records(whole(backend)) for backend in BACKENDS)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    np.testing.assert_allclose([r["loss_nats"] for r in ours], [r["loss_nats"] for r in theirs], rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_killed_after_37_steps_goes_on_to_the_same_bits(
    call: Program, workplace: Path, whole: Callable[[str], Path], backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config", "train.toml", "--save_dir", "cut", "--backend", backend]
    done = subprocess.run([sys.executable, "-c", KILLED_AT_37, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert records(workplace / "cut")[-1]["step"] == 37
    assert newest(workplace / "cut").step in (20, 30)
    assert not (workplace / "cut/result.json").exists()
    assert call(train, "--save_dir", "cut", "--resume") == 0
    assert "at step" in capsys.readouterr().err
    assert_same_run(workplace / "cut", whole(backend))
    assert (workplace / "cut/samples.txt").read_text() == (whole(backend) / "samples.txt").read_text()


def test_an_interrupt_saves_and_names_the_command_that_goes_on(
    call: Program, workplace: Path, whole: Callable[[str], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    record = RunLog.record

    def and_interrupt(self: Any, kind: str, step: int, values: Any) -> None:
        record(self, kind, step, values)
        if step == 23:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "record", and_interrupt)
        assert call(train, "--config", "train.toml", "--save_dir", "cut", "--backend", "torch") == 0
    assert (
        "saved at step 23 of 60; to resume: uv run transformerlm-train --save_dir cut --resume"
        in capfd.readouterr().err
    )
    assert newest(workplace / "cut").step == 23
    assert not (workplace / "cut/result.json").exists()
    assert call(train, "--save_dir", "cut", "--resume") == 0
    assert_same_run(workplace / "cut", whole("torch"))
    assert call(train, "--config", "train.toml", "--save_dir", "cut") == 2
    assert "cut already holds a run" in capfd.readouterr().err


@pytest.mark.parametrize("optimizer", ["muon", "kbeta"])
def test_the_optimizer_is_switched_by_a_flag_and_the_backends_agree(
    call: Program, workplace: Path, optimizer: str
) -> None:
    for backend in BACKENDS:
        flags = ["--config", "train.toml", "--optimizer.name", optimizer, "--training.max_steps", "10"]
        assert call(train, *flags, "--backend", backend, "--save_dir", backend, "--training.log_norms") == 0
    ours, theirs = (records(workplace / backend) for backend in BACKENDS)
    np.testing.assert_allclose([r["loss_nats"] for r in ours], [r["loss_nats"] for r in theirs], rtol=0, atol=1e-3)
    assert ours[0]["weight_norm"].keys() >= {"embed", "blocks.0", "blocks.1"}
    assert ours[0]["activation_rms"].keys() >= {"blocks.0", "blocks.1"}


def test_the_console_prints_the_records_unless_it_is_left_out(
    call: Program, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--config",
        "train.toml",
        "--training.max_steps",
        "2",
        "--backend",
        "torch",
        "--schedule.warmup_steps",
        "1",
    ]
    assert call(train, *flags, "--save_dir", "a") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {"loss_nats", "lr", "grad_norm", "tokens_per_second"} <= lines[0].keys()
    assert {"loss_nats", "perplexity", "bits_per_byte"} <= lines[1].keys()
    assert call(train, *flags, "--save_dir", "b", "--logging.backend", "tensorboard") == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert list((workplace / "b/tensorboard").iterdir())


def test_a_model_that_is_fine_tuned_begins_where_the_other_ended(
    call: Program, workplace: Path, whole: Callable[[str], Path]
) -> None:
    flags = ["--config", "train.toml", "--backend", "torch", "--training.max_steps", "6", "--save_dir", "tuned"]
    assert call(train, *flags, "--init_from", str(whole("torch")), "--model.n_layers", "1") == 0
    assert records(workplace / "tuned", "eval")[0]["loss_nats"] < records(whole("torch"), "eval")[0]["loss_nats"] - 1
    assert newest(workplace / "tuned").metadata["model"]["n_layers"] == 2


# Inference


def written(call: Program, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert call(infer, *flags, "--output", "json") == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_both_backends_write_the_same_text_past_the_models_window(
    call: Program, workplace: Path, whole: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(whole("torch")), "--prompt", "The square", "", "The double of 12 is", "--ignore_eos"]
    flags += ["--max_new_tokens", "40", "--sampling.top_p", "0.9", "--sampling.repetition_penalty", "1.1", "--n", "2"]
    ours, theirs = (written(call, capsys, *flags, "--backend", backend) for backend in BACKENDS)
    assert [record["text.output"] for record in ours] == [record["text.output"] for record in theirs]
    assert all(record["metrics.tokens"] == 40 for record in ours)
    alone = written(call, capsys, *flags, "--batch_size", "1", "--backend", "torch")
    assert [record["text.output"] for record in alone] == [record["text.output"] for record in ours]


def test_an_exported_model_writes_what_the_run_writes(
    call: Program, workplace: Path, whole: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(export, "--checkpoint", str(whole("torch")), "--output", "hf") == 0
    flags = ["--prompt", "The square of", "--max_new_tokens", "15", "--backend", "torch", "--sampling.temperature", "0"]
    ours = written(call, capsys, "--checkpoint", str(whole("torch")), *flags)
    theirs = written(call, capsys, "--checkpoint", "hf", *flags)
    assert ours[0]["text.output"] == theirs[0]["text.output"] != ""


# Sweeps


def test_a_sweep_trains_every_trial(
    call: Program, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "sweep.yaml").write_text("""
method: grid
command: ["${program}", --config, train.toml, --training.max_steps, "8", --logging.backend, wandb, "${args}"]
parameters:
  schedule.peak_lr: {values: [1.0e-5, 1.0e-2]}
""")

    class InThisProcess:
        """A trial without the start of an interpreter."""

        def __init__(self, command: list[str], **_: Any) -> None:
            assert command[1:3] == ["-m", "lm_pipeline.commands.train"]
            self.code = call(train, *command[3:], "--backend", "torch")

        def wait(self) -> int:
            return self.code

    monkeypatch.setattr(subprocess, "Popen", InThisProcess)
    monkeypatch.setitem(sys.modules, "wandb", None)  # a sweep here needs none
    assert call(sweep, "--sweep", "sweep.yaml") == 0
    rows = [line.split(",") for line in (workplace / "runs/sweeps/sweep/sweep.csv").read_text().splitlines()]
    assert [row[-1] for row in rows] == ["schedule.peak_lr", "0.01", "1e-05"]
    assert float(rows[1][1]) < float(rows[2][1])
