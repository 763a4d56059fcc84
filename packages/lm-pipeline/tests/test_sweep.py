"""transformerlm-sweep: what a sweep file means, and a sweep that is stopped and goes on; no model is trained here."""

import csv
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_core.cli import parse_flags
from lm_pipeline.commands import sweep
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.trials.config import Parameter, SweepFile, read_sweep, trials_of

GRID: dict[str, Any] = {
    "program": "transformerlm-train",
    "command": ["${env}", "uv", "run", "${program}", "--config", "train.toml", "${args}"],
    "method": "grid",
    "parameters": {"schedule.peak_lr": {"values": [1e-3, 2e-3]}, "optimizer.name": {"values": ["adamw", "muon"]}},
}
TRAIN = """
[data]
train = "tokens/train.npy"
validation = "tokens/validation.npy"
tokenizer = "tok"
[model]
seq_len = 16
d_model = 16
n_layers = 1
n_heads = 2
"""


def file(**changes: Any) -> SweepFile:
    return SweepFile.model_validate({**GRID, **changes})


# Trials


def test_a_grid_is_every_combination_as_flags() -> None:
    trials = trials_of(file(), 0, 0)
    assert [trial.words[2:] for trial in trials] == [
        ("--schedule.peak_lr", str(lr), "--optimizer.name", name) for lr in (0.001, 0.002) for name in ("adamw", "muon")
    ]
    assert all(trial.words[:2] == ("--config", "train.toml") for trial in trials)
    assert len({trial.name for trial in trials}) == 4
    assert trials_of(file(), 3, 0) == trials[:3]
    assert trials_of(file(run_cap=2), 0, 0) == trials[:2]


def test_the_records_of_a_trial_go_to_its_file_alone() -> None:
    command = [*GRID["command"][:-1], "--logging.backend", "wandb", "${args}"]
    trial = trials_of(file(command=command), 1, 0)[0]
    config = parse_flags(TrainConfig, "x", sweep._flags(trial, Path("t"))[2:])
    assert config.logging.backend == ()
    assert (config.save_dir, config.schedule.peak_lr) == ("t", 0.001)


def test_switches_and_lists_are_written_as_flags_are() -> None:
    parameters = {"step.compile": {"values": [True, False]}, "optimizer.decay_groups": {"value": ["matrix", "embed"]}}
    found = [trial.words[2:] for trial in trials_of(file(parameters=parameters), 0, 0)]
    rest = ("--optimizer.decay_groups", "matrix", "embed")
    assert found == [("--step.compile", *rest), ("--step.no_compile", *rest)]


def test_draws_depend_on_the_seed_alone_and_more_of_them_begin_with_the_same() -> None:
    parameters = {
        "schedule.peak_lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "model.dropout": {"min": 0.0, "max": 0.5},
        "training.batch_size": {"min": 4, "max": 8},
        "optimizer.name": {"values": ["adamw", "muon"]},
    }
    drawn = file(method="random", parameters=parameters)
    trials = trials_of(drawn, 50, 1)
    assert trials_of(drawn, 5, 1) == trials[:5]
    assert trials_of(drawn, 5, 2) != trials[:5]
    rates = sorted(trial.values["schedule.peak_lr"] for trial in trials)
    assert 1e-5 <= rates[0] < 1e-4 < 1e-2 < rates[-1] <= 1e-1
    assert {trial.values["training.batch_size"] for trial in trials} == {4, 5, 6, 7, 8}
    assert all(0 <= trial.values["model.dropout"] <= 0.5 for trial in trials)
    assert len(trials_of(drawn, 0, 1)) == 10


def test_a_range_reaches_its_ends() -> None:
    assert [Parameter(min=1, max=3).draw(u) for u in (0.0, 0.5, 0.999)] == [1, 2, 3]
    assert Parameter(min=1, max=3, distribution="uniform").draw(0.25) == 1.5
    assert Parameter(min=1e-4, max=1e-2, distribution="log_uniform_values").draw(0.5) == 1e-3


# The command line


@pytest.fixture
def sweep_file(workplace: Path) -> Callable[..., None]:
    def write(**changes: Any) -> None:
        (workplace / "train.toml").write_text(TRAIN)
        (workplace / "sweep.yaml").write_text(yaml.safe_dump({**GRID, **changes}))

    write()
    return write


class Children:
    """Stands for the processes of trials: each finishes with a loss, or as `endings` says."""

    def __init__(self, endings: dict[int, Any] | None = None) -> None:
        self.endings = endings or {}
        self.commands: list[list[str]] = []
        self.signals: list[int] = []

    def __call__(self, command: list[str], **_: Any) -> "Child":
        self.commands.append(command)
        return Child(self, command, self.endings.pop(len(self.commands), 0))


class Child:
    def __init__(self, children: Children, command: list[str], ending: Any) -> None:
        self.children, self.command, self.ending = children, command, ending
        self.stopped = threading.Event()

    def wait(self) -> int:
        folder = Path(self.command[self.command.index("--save_dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text("")
        if isinstance(self.ending, signal.Signals):  # which this process gets while the trial runs
            os.kill(os.getpid(), self.ending)
        if self.ending == "runs" or isinstance(self.ending, signal.Signals):
            assert self.stopped.wait(60)  # it saves, and ends without a result
            return 0
        if self.ending == 0:
            loss = float(self.command[self.command.index("--schedule.peak_lr") + 1])
            loss *= 2 if "muon" in self.command else 1
            (folder / "result.json").write_text(json.dumps({"metrics.val_loss": loss, "step": 10}))
        return int(self.ending)

    def send_signal(self, number: int) -> None:
        self.children.signals.append(number)
        self.stopped.set()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def run(monkeypatch: pytest.MonkeyPatch, children: Children, *flags: str) -> int:
    monkeypatch.setattr(subprocess, "Popen", children)
    monkeypatch.setattr("sys.argv", ["sweep", "--sweep", "sweep.yaml", *flags])
    return sweep.main()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_goes_on_and_ends_with_a_sorted_table(
    number: signal.Signals,
    sweep_file: object,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = Children({2: number})
    assert run(monkeypatch, first) == 130
    assert first.signals == [signal.SIGTERM]
    assert len(first.commands) == 2
    second = Children()
    assert run(monkeypatch, second) == 0
    assert ["--resume" in command for command in second.commands] == [True, False, False]
    assert second.commands[0][:-1] == first.commands[1], "the trial that was stopped goes on"
    rows = table(workplace / "runs/sweeps/sweep/sweep.csv")
    assert [float(row["metrics.val_loss"]) for row in rows] == [0.001, 0.002, 0.002, 0.004]
    assert (rows[-1]["schedule.peak_lr"], rows[-1]["optimizer.name"]) == ("0.002", "muon")
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == list(rows[0])
    assert [line.split()[0] for line in out[1:]] == [row["trial"] for row in rows]
    third = Children()
    assert run(monkeypatch, third) == 0
    assert third.commands == []


def test_a_trial_that_diverges_is_last_and_one_that_fails_ends_the_sweep(
    sweep_file: object, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Children({1: 1, 3: 2})
    assert run(monkeypatch, children, "--save_dir", "out") == 2
    assert len(children.commands) == 3
    assert "ended with exit code 2; what was finished is kept" in capsys.readouterr().err
    assert run(monkeypatch, Children({1: 1}), "--save_dir", "out") == 0
    rows = table(workplace / "out/sweep.csv")
    assert [row["metrics.val_loss"] for row in rows] == ["0.002", "0.002", "0.004", ""]


def test_several_trials_at_a_time_give_the_same_table(
    sweep_file: object, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, Children(), "--save_dir", "one") == 0
    assert run(monkeypatch, Children(), "--save_dir", "three", "--workers", "3") == 0
    assert (workplace / "three/sweep.csv").read_bytes() == (workplace / "one/sweep.csv").read_bytes()


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (3, 2)])
def test_all_trials_that_run_are_stopped_with_the_sweep(
    sweep_file: object, monkeypatch: pytest.MonkeyPatch, ending: int, code: int
) -> None:
    children = Children({1: "runs", 2: ending})
    assert run(monkeypatch, children, "--workers", "2") == code
    assert len(children.commands) == 2
    assert set(children.signals) == {signal.SIGTERM}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "bayes"}, "sweep.yaml: method: bayes runs on W&B alone"),
        ({"method": "guess"}, "sweep.yaml: method: Input should be 'grid' or 'random'"),
        ({"parameters": {}}, "sweep.yaml: parameters: "),
        ({"parameters": {"seed": {}}}, "sweep.yaml: parameters.seed: give value, or values, or min and max"),
        ({"parameters": {"seed": {"min": 1.0, "max": 3}}}, "parameters.seed: uniform has no grid: give values, whole"),
        ({"parameters": {"seed": {"min": 1}}}, "parameters.seed: int_uniform needs max"),
        ({"parameters": {"seed": {"distribution": "normal"}}}, "parameters.seed: normal has no grid"),
        ({"parameters": {"optimizer": {"parameters": {}}}}, "sweep.yaml: parameters: "),
        ({"parameters": {"seed": {"values": [1], "q": 2}}}, "parameters.seed: categorical takes probabilities and val"),
        ({"parameters": {"seed": {"values": [1], "probabilities": [1]}}}, "probabilities are for method random"),
        (
            {"parameters": {"seed": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
            "probabilities sum to 1.1, not to 1",
        ),
        (
            {"parameters": {"seed": {"distribution": "beta"}}},
            "parameters.seed.distribution: beta is drawn by W&B alone",
        ),
        (
            {"parameters": {"seed": {"distribution": "gauss"}}},
            "parameters.seed.distribution: Input should be 'constant'",
        ),
        (
            {"parameters": {"seed": {"distribution": "int_uniform", "min": 1.5, "max": 2}}},
            "int_uniform needs whole numbe",
        ),
        (
            {"parameters": {"schedule.peak_lr": {"distribution": "log_uniform", "min": 1, "max": 999.0}}},
            "log_uniform draws numbers that are too large; its ends are exponents of e",
        ),
        (
            {"parameters": {"seed": 3}},
            "parameters: seed: write seed: {value: 3} for one value, values: [...] for several",
        ),
        ({"parameters": {"seed": {"value": {"a": 1}}}}, "parameters.seed.value: a table is not a value: nest it"),
        (
            {"parameters": {"save_dir": {"value": "x"}}},
            "save_dir: the sweep decides on it for every trial; leave it out",
        ),
        (
            {"parameters": {"model.d_model": {"value": 8}, "model": {"parameters": {"d_model": {"value": 8}}}}},
            "model.d_model is given twice, nested and dotted",
        ),
        ({"parameters": {"data.tokenizer": {"value": None}}}, "data.tokenizer cannot be null: leave it out"),
        ({"parmeters": {}}, "sweep.yaml: unknown key 'parmeters'; did you mean 'parameters'?"),
        ({"metrics": []}, "sweep.yaml: metrics: several metrics are weighed on W&B alone"),
        ({"scheduler": {}}, "sweep.yaml: scheduler: schedulers run on W&B alone"),
        ({"program": "train.py"}, "program: train.py is run by W&B alone; here it is transformerlm-train"),
        ({"command": ["python", "train.py", "${args}"]}, "command: write ${program} in it"),
        ({"command": ["${program}", "--seed=${SEED}", "${args}"]}, "command: --seed=${SEED} has no meaning here"),
        ({"command": ["${program}", "${envvar:NO_SUCH}", "${args}"]}, "command: the environment has no NO_SUCH"),
        (
            {"parameters": {f"p{i}": {"values": list(range(30))} for i in range(5)}},
            "the sweep has 24,300,000 trials, and at most 1,000 are run: give a smaller --count or run_cap",
        ),
        ({"parameters": {"seed": {"min": 0, "max": 10**12}}}, "the sweep has 1,000,000,000,001 trials"),
        (
            {"metric": {"name": "metrics.val_los"}},
            "a run's result has no 'metrics.val_los'; did you mean 'metrics.val_loss'?",
        ),
        ({"parameters": {"schedule.peak": {"value": 1}}}, "trial schedule.peak 1: "),
        ({"parameters": {"schedule.peak_lr": {"values": [1e-3, -1.0]}}}, "trial schedule.peak_lr -1.0: "),
        ({"parameters": {"data.train": {"values": ["none.npy"]}}}, "data.train: there is no token file none.npy"),
        ({"run_cap": 0}, "sweep.yaml: run_cap: Input should be greater than 0"),
    ],
)
def test_a_mistake_is_one_line_before_any_trial_runs(
    sweep_file: Callable[..., None], workplace: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str,
) -> None:  # fmt: skip
    sweep_file(**changes)
    children = Children()
    assert run(monkeypatch, children) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert children.commands == []
    assert not (workplace / "runs").exists()


def test_no_trial_begins_once_one_has_reached_the_target(
    sweep_file: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_file(metric={"name": "metrics.val_loss", "target": 0.002}, parameters={"schedule.peak_lr": {"values": [
        4e-3, 2e-3, 1e-3]}})  # fmt: skip
    children = Children()
    assert run(monkeypatch, children) == 0
    assert len(children.commands) == 2
    assert "has reached metric.target 0.002" in capsys.readouterr().err


def test_a_file_that_cannot_be_read(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="cannot read none"):
        read_sweep("none")
    (workplace / "sweep.yaml").write_text("a: [")
    assert run(monkeypatch, Children()) == 2
    (workplace / "sweep.yaml").write_text("just text")
    assert run(monkeypatch, Children()) == 2
