"""Testbed D as its users meet it: a run, its folder, Ctrl-C, resuming, on either backend."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import exit_code_of
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.log import TIMING_FIELDS
from testbed_d import cli

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = "--d_model 32 --n_layer 1 --n_head 2 --batch 4 --ctx 32 --lmin 8 --lmax 32 --len_bucket 8 --eval_bs 4"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Testbed = Callable[..., Done]


def app_command(*flags: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "apps" / "testbed_d"), *flags]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text with something to learn in it."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i}: the square of {i} is {i * i}\n" for i in range(400)))
    return path


@pytest.fixture
def testbed(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Testbed:
    """Runs the small Testbed D on `text`, in this process and `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def run(*flags: str) -> Done:
        capsys.readouterr()
        code = exit_code_of(lambda: cli.run(["--text", str(text), *SMALL.split(), *flags]), cli.APP.name)
        return Done(code, *capsys.readouterr())

    return run


def records(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without the fields that measure time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING_FIELDS} for line in lines]


BACKENDS = ["torch", "mlx"]
SIGNALLED = """
import os, runpy, sys
from lm_core.run.log import RunLog
record = RunLog.record
def and_signal(self, kind, step, values):
    record(self, kind, step, values)
    if step == 11:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
RunLog.record = and_signal
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def final(folder: Path) -> Checkpoint:
    checkpoint = Checkpoints(folder / "checkpoints").newest(pytest.fail)
    assert checkpoint is not None
    return checkpoint


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, optimizer state and log are equal to the bit; the log but for the fields that measure time."""
    a, b = final(ours), final(theirs)
    assert a.path.name == b.path.name, "the name is the hash of the weights"
    assert a.optimizer_state.keys() == b.optimizer_state.keys()
    for name, array in a.optimizer_state.items():
        assert array.tobytes() == b.optimizer_state[name].tobytes(), name
    assert records(ours) == records(theirs)


def test_a_run_learns_and_leaves_its_folder(testbed: Testbed, tmp_path: Path) -> None:
    done = testbed("--steps", "60", "--lr", "3e-3", "--save_dir", "run", "--eval_every", "30", "--sample", "40")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    lines = records(run)
    losses = [line["loss_nats"] for line in lines if line["kind"] == "eval"]
    assert losses[-1] < losses[0] - 0.5
    assert {"loss_nats", "bits_per_char", "lr", "grad_norm", "sunspike", "beta2"} <= lines[0].keys()
    assert lines[0]["bits_per_char"] == pytest.approx(lines[0]["loss_nats"] / np.log(2))
    assert [json.loads(line)["step"] for line in done.stdout.splitlines() if line.startswith("{")] == [
        line["step"] for line in lines
    ]
    for name in ("config.toml", "samples.txt", "report.html"):
        assert (run / name).stat().st_size, name
    assert f"report: {Path('run') / 'report.html'}" in done.stdout
    assert not list(run.rglob("*.new"))


def test_a_deterministic_run_twice_gives_the_same_metrics(testbed: Testbed, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert testbed("--deterministic", "--steps", "20", "--log_every", "1", "--save_dir", name).returncode == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert len(records(tmp_path / "a")[0]["beta2"]) > 10, "one bucket per array"


@pytest.fixture
def signalled(text: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """The program itself, in a process that gets a signal at step 11: its exit code, and what it wrote to stderr."""

    def run(number: signal.Signals, *flags: str) -> tuple[int, str]:
        command = [sys.executable, "-c", SIGNALLED, *app_command("--text", str(text), *SMALL.split(), *flags)[1:]]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"SIGNAL": str(int(number))}
        )
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_saves_and_the_printed_command_goes_on(
    testbed: Testbed, signalled: Callable[..., tuple[int, str]], tmp_path: Path, number: signal.Signals
) -> None:
    flags = ["--steps", "20", "--log_every", "1", "--sample", "0"]
    code, said = signalled(number, *flags, "--save_dir", "cut")
    assert code == 0, said
    assert "to resume: uv run apps/testbed_d --save_dir cut --resume" in said
    assert (tmp_path / "cut" / "report.html").exists()
    assert 11 <= final(tmp_path / "cut").step < 20
    assert testbed("--save_dir", "cut", "--resume").returncode == 0
    assert testbed(*flags, "--save_dir", "whole").returncode == 0
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_killed_on_its_way_resumes_to_the_same_bits(
    testbed: Testbed, signalled: Callable[..., tuple[int, str]], tmp_path: Path, backend: str
) -> None:
    flags = ["--steps", "20", "--save_every", "3", "--log_every", "1", "--eval_every", "5", "--sample", "0"]
    flags += ["--backend", backend]
    assert testbed(*flags, "--save_dir", "whole").returncode == 0
    assert signalled(signal.SIGKILL, *flags, "--save_dir", "killed")[0] == -signal.SIGKILL
    done = testbed("--save_dir", "killed", "--resume", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("suffix", [".safetensors", ".metadata"])
def test_a_flipped_byte_is_noticed_and_the_previous_checkpoint_used(
    testbed: Testbed, tmp_path: Path, suffix: str
) -> None:
    assert testbed("--steps", "30", "--save_every", "10", "--save_dir", "run").returncode == 0
    before = final(tmp_path / "run")
    damaged = before.path.with_suffix(suffix)
    data = bytearray(damaged.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    done = testbed("--save_dir", "run", "--resume")
    assert done.returncode == 0
    assert f"checkpoint skipped: {damaged.name}" in done.stderr
    assert "at step 20 of 30" in done.stderr
    after = final(tmp_path / "run")
    assert after.path.name == before.path.name


@pytest.mark.parametrize("opt", ["adam", "kbeta"])
@pytest.mark.parametrize(("first", "second"), [("torch", "mlx"), ("mlx", "torch")])
def test_a_run_begun_on_one_backend_goes_on_on_the_other(
    testbed: Testbed, tmp_path: Path, first: str, second: str, opt: str
) -> None:
    flags = ["--sample", "0", "--log_every", "1", "--opt", opt, "--layer_bucket", "shape"]
    assert testbed(*flags, "--steps", "15", "--save_dir", "cross", "--backend", first).returncode == 0
    assert testbed("--save_dir", "cross", "--resume", "--steps", "40", "--backend", second).returncode == 0
    assert testbed(*flags, "--steps", "40", "--save_dir", "straight", "--backend", second).returncode == 0
    cross, straight = (
        [line["loss_nats"] for line in records(tmp_path / name) if line["kind"] == "train"]
        for name in ("cross", "straight")
    )
    assert len(cross) == 40
    np.testing.assert_allclose(cross, straight, rtol=0, atol=1e-4)


def test_early_stopping_stops(testbed: Testbed, tmp_path: Path) -> None:
    flags = ["--steps", "200", "--eval_every", "2", "--early_stop_patience", "3", "--early_stop_min_delta", "9"]
    done = testbed(*flags, "--save_dir", "run", "--early_stop_warmup", "10")
    assert done.returncode == 0
    assert "early stop at step 16" in done.stderr
    assert final(tmp_path / "run").step == 16


def test_an_infinite_loss_stops_with_the_step_and_keeps_the_last_good_checkpoint(
    testbed: Testbed, tmp_path: Path
) -> None:
    done = testbed("--steps", "50", "--lr_schedule", "0:1e-3,12:1e38", "--save_every", "10", "--save_dir", "run")
    assert done.returncode == 1
    assert "step 13:" in done.stderr.splitlines()[-1]
    assert final(tmp_path / "run").step == 10


def test_help_answers_without_a_framework(tmp_path: Path) -> None:
    command = app_command("--help")
    command[1:1] = ["-X", "importtime"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "mlx", "mlx.core", "matplotlib", "numba", "scipy", "pooch", "requests"}
    assert "--layer_bucket {global,shape,per-array}" in done.stdout
