"""`lm-bench verify`: what is whole is sound, what is damaged is named, and nothing is ever changed."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from lm_bench import cli
from lm_core.run.checkpoint import Checkpoints

FACTS = {"model": {"d_model": 4}, "optimizer": {"name": "adamw"}, "tokenizer": {"kind": "abc"}, "data": 0}


def save(folder, step, parent=None, value=1.0, **facts):
    weights = {"embed.weight": np.full((4, 2), step * value, np.float32)}
    state = {"m.embed.weight": np.full((4, 2), value, np.float32)}
    about = {**FACTS, "step": step, "state": {"step": step, "last_val_step": 0}, "parent": parent, **facts}
    return Checkpoints(folder / "checkpoints", keep=9).save(weights, state, about)


def write_log(folder, *steps):
    lines = [json.dumps({"kind": "train", "step": step, "loss_nats": 1.0}) + "\n" for step in steps]
    (folder / "metrics.jsonl").write_text("".join(lines))


@pytest.fixture
def run(tmp_path):
    """A run of 20 steps with two checkpoints, logged every fifth step."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("log_every = 5\n")
    write_log(folder, 1, 5, 10, 15, 20)
    save(folder, 20, save(folder, 10).stem)
    return folder


@pytest.fixture
def verify(monkeypatch, capsys):
    """Runs the command; returns its exit code and what it printed."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["lm-bench", "verify", *map(str, words)])
        code = cli.main()
        out, err = capsys.readouterr()
        return code, out + err

    return call


def content(folder):
    return {path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def newest(run):
    [path] = [
        path for path in (run / "checkpoints").glob("*.metadata") if Checkpoints(path.parent).read(path).step == 20
    ]
    return path


def test_a_whole_run_is_sound_and_stays_as_it_is(run, verify):
    before = content(run)
    code, said = verify(run)
    assert code == 0
    assert sum(line.endswith("sound") for line in said.splitlines()) == 4
    assert content(run) == before


def test_a_folder_of_runs_is_all_of_them(run, verify):
    other = run.parent / "other"
    other.mkdir()
    (other / "config.toml").write_text("steps = 1")
    code, said = verify(run.parent)
    assert code == 0
    assert f"{other}" in said
    assert "nothing has been saved" in said
    code, said = verify(run, other, "--json")
    assert [result["sound"] for result in json.loads(said)] == [True, True]


def add(run, step, parent):
    """A checkpoint that was saved elsewhere."""
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    path = save(elsewhere, step, parent)
    for suffix in (".metadata", ".safetensors"):
        shutil.copy(path.with_suffix(suffix), run / "checkpoints")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "weights": (lambda run: flip(newest(run).with_suffix(".safetensors")), "SHA-1 differs"),
    "optimizer state": (lambda run: flip(newest(run)), "digest differs"),
    "missing weights": (lambda run: newest(run).with_suffix(".safetensors").unlink(), "missing"),
    "config": (lambda run: (run / "config.toml").write_text("a = ["), "not valid TOML"),
    "deep config": (lambda run: (run / "config.toml").write_text("a = " + "[" * 100_000), "config.toml"),
    "log line": (
        lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 20}\n'),
        "line 2 is not a record",
    ),
    "log order": (lambda run: write_log(run, 1, 5, 10, 5, 20), "line 4 goes back from step 10 to 5"),
    "log end": (lambda run: write_log(run, 1, 5, 10), "ends at step 10"),
    "no log": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl"),
    "log of zeros": (lambda run: os.truncate(run / "metrics.jsonl", 1 << 40), "is not a record"),
    "nan": (lambda run: save(run, 30, newest(run).stem, value=np.nan), "is not finite"),
    "another model": (
        lambda run: save(run, 25, newest(run).stem, model={}),
        "its model is not that of its parent",
    ),
    "parent ahead": (lambda run: add(run, 15, newest(run).stem), "has more steps"),
    "step of the state": (lambda run: save(run, 18, state={"step": 3}), "of step 18, and its state of step 3"),
    "evaluation": (
        lambda run: save(run, 21, state={"step": 21, "last_val_step": 21}) and write_log(run, 1, 5, 10, 15, 20),
        "evaluation of step 21 is missing",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(run, verify, what):
    harm, complaint = DAMAGE[what]
    harm(run)
    code, said = verify(run)
    assert code == 1
    assert complaint in said
    assert "DAMAGED" in said


LEFTOVERS = {
    "of a save": (f"checkpoints/{'0123' * 10}.metadata.new", "left by a killed save"),
    "of the log": (f".metrics.jsonl.{16 * '0'}.new", "left by a killed save"),
    "weights alone": (f"checkpoints/{'0123' * 10}.safetensors", "weights without metadata"),
    "stray": ("notes.txt", "not of a run"),
    "own copy": ("checkpoints/my-best.safetensors", "not of a run"),
    "terminal codes": ("\x1b[2J\udcff", r"\x1b[2J\xff"),
}


@pytest.mark.parametrize("what", LEFTOVERS)
def test_leftovers_and_strays_are_noted_and_harm_nothing(run, verify, what):
    name, note = LEFTOVERS[what]
    (run / name).write_bytes(b"x")
    code, said = verify(run)
    assert code == 0
    assert note in said
    assert "\x1b" not in said


def test_a_torn_last_line_is_noted(run, verify):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    code, said = verify(run)
    assert code == 0
    assert "line 6, the last, is torn" in said


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", f"checkpoints/{'f' * 40}.metadata", "lock"])
def test_a_pipe_is_not_waited_for(run, verify, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    code, said = verify(run)
    assert code == (0 if name == "lock" else 1)
    assert "not a file" in said or "not a regular file" in said or name == "lock"


@pytest.mark.parametrize("words", [["nowhere"], ["."], [], ["--json"]])
def test_a_mistake_is_one_line(run, verify, monkeypatch, tmp_path, words):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    code, said = verify(*words)
    assert code == 2
    assert said.count("\n") == 1
