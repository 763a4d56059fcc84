"""`--seeds` in the apps: each run is the one that its seed alone makes, and the same command resumes."""

import json
from pathlib import Path

import pytest

import transformer_lm.cli
from lm_core.run.seeds import for_each_seed
from lm_pipeline.commands import train
from testbed_d import cli

TIMES = ("seconds", "tokens_per_second")
FLAGS = [
    "--text", "text.txt", "--steps", "2", "--batch", "2", "--d_model", "8", "--n_layer", "1", "--n_head", "1",
    "--ctx", "8", "--lmin", "4", "--lmax", "8", "--eval_bs", "2", "--sample", "0", "--backend", "torch",
]  # fmt: skip


def records(folder: str) -> list[dict[str, object]]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def test_testbed_d_runs_each_seed_as_it_would_alone_and_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some text that is long enough\n" * 100)
    words = [*FLAGS, "--seeds", "1", "2", "--save_dir", "s"]
    assert for_each_seed(words, cli.run) == 0
    assert for_each_seed([*FLAGS, "--seed", "2", "--save_dir", "alone"], cli.run) in (0, None)
    assert records("s/seed-2") == records("alone")
    assert records("s/seed-1") != records("s/seed-2")
    before = records("s/seed-1")
    capsys.readouterr()
    assert for_each_seed(words, cli.run) == 0
    assert capsys.readouterr().err.count("is complete at step 2") == 2
    assert records("s/seed-1") == before


def test_transformer_lm_gives_each_seed_a_save_folder_and_one_place_for_their_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(transformer_lm.cli, "run", lambda argv, in_series=False: asked.append((argv, in_series)))
    assert transformer_lm.cli.command(["--seeds", "1", "2", "--save_dir", "s", "--dim", "8"]) == 0
    assert asked == [(["--dim", "8", "--seed", f"{n}", "--save_dir", f"s/seed-{n}"], True) for n in (1, 2)]
    assert transformer_lm.cli.command(["--dim", "8"]) is None
    assert asked[-1] == (["--dim", "8"], False)


def test_transformerlm_train_takes_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--seeds", "1", "2", "--save_dir", "s"])
    monkeypatch.chdir(tmp_path)
    assert train.main() == 2
    err = capsys.readouterr().err
    assert "seed 1, 1 of 2: s/seed-1" in err
    assert "seed 2" not in err, "the first seed's mistake is that of all"
