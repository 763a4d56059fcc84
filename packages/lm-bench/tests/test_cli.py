"""The command line, with the measurement itself replaced."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lm_bench import cli
from lm_bench.agreement import Agreement
from lm_bench.memory import Memory
from lm_bench.statistics import Quartiles
from lm_bench.step import StepTimes


@pytest.fixture
def measured(monkeypatch):
    """Replaces backends and measurements; collects what was asked to be measured."""
    asked = []
    ones = Quartiles(1, 1, 1)

    def times(backend, case, config, rounds, steps):
        asked.append((case.name, backend, config.dtype, config.compile, rounds, steps))
        return StepTimes(ones, ones, ones, Agreement(1, 4.0, 4.0, 0.0, 1e-3))

    monkeypatch.setattr(cli, "load_backend", lambda name: SimpleNamespace(describe=lambda step: f"{name} 1.0"))
    monkeypatch.setattr(cli, "measure_times", times)
    monkeypatch.setattr(cli, "measure_memory", lambda *_: {"ours": Memory(1, 2), "bare": Memory(1, 2)})
    return asked


def exit_of(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["lm-bench", *argv])
    return cli.main()


@pytest.mark.parametrize("argv", [(), ("stp",), ("--rounds", "3")])
def test_without_a_known_command_one_line_lists_them(monkeypatch, capsys, argv):
    assert exit_of(monkeypatch, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "known commands: step" in err


def test_help_lists_the_commands(monkeypatch, capsys):
    assert exit_of(monkeypatch, "--help") == 0
    assert "step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--backend", "jax"], "jax"),
        (["--case", "gpt-5"], "gpt-5"),
        (["--rounds", "0"], "rounds"),
        (["--steps", "-1"], "steps"),
        (["--round", "3"], "round"),
        (["--dtype", "float8"], "float8"),
    ],
)
def test_a_wrong_flag_is_one_line_and_measures_nothing(monkeypatch, capsys, measured, argv, complaint):
    assert exit_of(monkeypatch, "step", *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1
    assert measured == []


def test_every_case_runs_on_every_backend(monkeypatch, capsys, measured):
    assert exit_of(monkeypatch, "step") == 0
    assert [row[:2] for row in measured] == [
        ("testbed-d", "torch"),
        ("testbed-d", "mlx"),
        ("nanogpt-char", "torch"),
        ("nanogpt-char", "mlx"),
        ("ptb64", "torch"),
        ("ptb64", "mlx"),
    ]
    out = capsys.readouterr().out
    assert "peak MiB" in out
    assert out.count("same model:") == 6


def test_flags_reach_the_measurement(monkeypatch, capsys, measured):
    flags = "--backend torch --case nanogpt-char --rounds 3 --steps 2 --compile --dtype bfloat16 --no_memory"
    assert exit_of(monkeypatch, "step", *flags.split()) == 0
    assert measured == [("nanogpt-char", "torch", "bfloat16", True, 3, 2)]
    out = capsys.readouterr().out
    assert "3 rounds of 2 steps, bfloat16, compiled" in out
    assert "peak MiB" not in out


def test_json_is_all_there_is_on_stdout(monkeypatch, capsys, measured):
    assert exit_of(monkeypatch, "step", "--json", "--backend", "mlx", "--case", "testbed-d") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["environment"]["frameworks"] == {"mlx": "mlx 1.0"}
    assert record["results"][0]["times"]["ratio"] == {"low": 1, "median": 1, "high": 1}
    assert record["results"][0]["memory"]["ours"] == {"imported": 1, "peak": 2}


@pytest.mark.parametrize("argv", [["--help"], ["step", "--help"]])
def test_help_imports_no_framework(argv):
    code = f"""
import sys
from lm_bench.cli import run
try:
    run({argv!r})
except SystemExit as stop:
    assert not stop.code
assert not {{"torch", "mlx", "mlx.core"}} & sys.modules.keys()
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: lm-bench" in child.stdout
