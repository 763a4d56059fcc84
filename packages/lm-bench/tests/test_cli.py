"""The command line: what is wrong with it is one line, and it loads what the command needs alone."""

import subprocess
import sys
from importlib import import_module

import pytest

from lm_bench import cli


def exit_of(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["lm-bench", *argv])
    return cli.main()


@pytest.mark.parametrize("argv", [(), ("stp",), ("--rounds", "3")])
def test_without_a_known_command_one_line_lists_them(monkeypatch, capsys, argv):
    assert exit_of(monkeypatch, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "known commands: all, train" in err


def test_help_lists_the_commands_and_each_has_its_function(monkeypatch, capsys):
    assert exit_of(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in said
        assert callable(getattr(import_module(command.module), command.function or name))


@pytest.mark.parametrize("command", ["verify", "compare"])
def test_without_a_run_folder_one_line_says_so(monkeypatch, capsys, command):
    assert exit_of(monkeypatch, command, "--json") == 2
    assert f"no run folder given; see lm-bench {command} --help" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["verify", "."]])
def test_help_and_verify_import_nothing_that_is_measured(tmp_path, argv):
    (tmp_path / "config.toml").write_text("steps = 1")
    code = f"""
import sys
from lm_bench.cli import run
try:
    run({argv!r})
except SystemExit as stop:
    assert not stop.code
assert not {{"torch", "mlx", "transformers", "tokenizers", "matplotlib"}} & sys.modules.keys()
assert not [name for name in sys.modules if name.startswith(("lm_bench.peers", "lm_bench.train", "lm_bench.gpu"))]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
