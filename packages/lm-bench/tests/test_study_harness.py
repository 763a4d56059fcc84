"""A study run whole, by a program that trains in milliseconds: what it leaves, and that nothing is run twice."""

import csv
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lm_bench.study.folder import read_about
from lm_bench.study.result import results
from lm_bench.study.worker import run_trial

from .study_files import BACKED, command, planner, study_here, write_study

pytestmark = BACKED

TIMES = ("seconds", "peak_bytes")
SPOILT = {
    "arms": {
        "whole": {"beta2": 0.9},
        "diverges": {"beta2": 0.8, "spoilt": "nan"},
        "fills": {"beta2": 0.7, "spoilt": "memory"},
        "dies": {"beta2": 0.6, "spoilt": "killed"},
    },
    "tuned": {},
    "tuning_seeds": [],
}


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    """The command in this process, whose workers alone are others: what it prints, and its exit code."""
    monkeypatch.setenv("STUDY_TRACE", str(tmp_path / "trace"))
    return study_here(monkeypatch, capsys)


def table(out):
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


KILLED = {"base": {"pace": 0.03}, "budgets": [6], "tuned": {}, "tuning_seeds": []}


def steps(path):
    """Steps by run."""
    return Counter(path.read_text().split()) if path.exists() else Counter()


def test_a_study_is_tuned_extended_and_compared_and_a_challenge_reproduces_it_to_the_bit(tmp_path, study):
    out, path = tmp_path / "out", write_study(tmp_path, base={"best_lr": 1.0}, extend=True)
    said, code = study(path, "--save_dir", out, "--workers", 2)
    assert code == 0, said
    runs = results(out)
    assert set(steps(tmp_path / "trace").values()) == {4}  # each step of each run once
    assert {run.point["lr"] for run in runs if run.stage == "tuning"} == {0.1, 0.3, 0.9, 2.7}
    assert {(run.arm, run.point["lr"], run.seed) for run in runs if run.stage == "comparison"} == {
        (arm, 0.9, seed) for arm in "AB" for seed in (0, 1)
    }
    about = read_about(out)
    assert (about.alarms, [choice.trials for choice in about.choices]) == ([], [4, 4])
    assert about.resolved["B"]["optimizer.beta2"] == 0.95
    assert "Paired differences" in said
    assert "Is A better than B?" in (out / "page.html").read_text()
    assert not list(out.glob("trials/*/checkpoints"))
    said, code = study("--challenge", out, "--workers", 1)
    assert (code, said.count("bit for bit")) == (0, 2), said
    assert table(tmp_path / "out-challenge") == table(out)


def test_a_grid_is_extended_as_far_as_the_config_allows_and_may_be_of_texts(tmp_path, study):
    """Above 0.95 there is 0.992, and above that and 0.99 a beta2 of more than 1."""
    grids = {"tuned": {"beta2": [0.91, 0.95], "opt": ["adam", "kbeta"]}, "grids": {"B": {"beta2": [0.99, 0.95]}}}
    arms = {"A": {"lr": 0.1}, "B": {"lr": 0.3}}
    path = write_study(tmp_path, base={"best_lr": 0.1, "falling": True}, extend=True, arms=arms, **grids)
    said, code = study(path, "--save_dir", tmp_path / "out", "--workers", 2)
    assert code == 0, said
    assert "A, beta2 0.95, opt kbeta, 4 steps, torch, seed 1000: " in said
    tried = {run.point["beta2"] for run in results(tmp_path / "out") if run.stage == "tuning"}
    assert tried == {0.91, 0.95, 0.99, 0.991758}
    assert "the best beta2 is 0.99, at the edge of its grid" in said


def test_a_study_that_chooses_other_points_forgets_what_it_compared_before(tmp_path, study):
    """As it may after --retry: the outcomes of the tuning have changed."""
    words = write_study(tmp_path, base={"best_lr": 0.3}), "--save_dir", tmp_path / "out", "--workers", 1
    assert study(*words)[1] == 0
    for run in results(tmp_path / "out"):
        if (run.stage, run.point["lr"]) == ("tuning", 0.3):
            replace(run, metric=100.0).write()
    said, code = study(*words)
    assert code == 0, said
    assert "diverged or failed" not in said
    for row in table(tmp_path / "out"):
        assert row["stage"] == "tuning" or row["lr"] == "0.1", row
    assert len(results(tmp_path / "out")) == 12


def test_a_dry_run_prints_the_plan_with_its_cost_and_writes_nothing(tmp_path, study, monkeypatch):
    monkeypatch.delenv("STUDY_TRACE")
    monkeypatch.chdir(tmp_path)
    said, code = study(write_study(tmp_path, budgets=[40, 80], seeds=3), "--dry-run", "--workers", 2)
    assert code == 0, said
    assert "20 runs (0 finished), 1,200 steps, 2 at once, 1 thread each, about" in said
    assert "3 paired seeds show a mean difference of" in said
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_what_does_not_complete_is_a_result_and_the_others_continue(tmp_path, study):
    said, code = study(write_study(tmp_path, **SPOILT), "--save_dir", tmp_path / "out", "--workers", 1)
    assert code == 0, said
    found = {run.arm: run for run in results(tmp_path / "out")}
    assert {arm: run.status for arm, run in found.items()} == {
        "whole": "complete",
        "diverges": "diverged",
        "fills": "out of memory",
        "dies": "out of memory",
    }
    assert "step 1: loss_nats is nan" in found["diverges"].message
    assert "was killed" in found["dies"].message
    assert len(results(tmp_path / "out")) == 8
    assert "diverges, 4 steps, torch, seed 1: diverged (step 1" in said


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for processes in /proc")
def test_a_killed_study_leaves_no_process(tmp_path):
    write_study(tmp_path, base={"pace": 3600.0}, tuned={}, tuning_seeds=[])
    words = (str(tmp_path / "study.toml"), "--save_dir", str(tmp_path / "out"), "--workers", "1")
    process = command(tmp_path, *words, STUDY_TRACE=str(tmp_path / "trace"))
    while not list(tmp_path.glob("out/trials/*/config.toml")):
        time.sleep(0.02)
    assert working_in(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    end = time.monotonic() + 60
    while workers := working_in(tmp_path):
        assert time.monotonic() < end, workers
        time.sleep(0.02)


def test_a_study_that_is_killed_or_stopped_loses_nothing_and_runs_nothing_twice(tmp_path, study):
    ended_at_random_instants(study, tmp_path, [signal.SIGKILL, signal.SIGINT], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_20_kills_lose_nothing_and_nothing_runs_twice(tmp_path, study, seed):
    ended_at_random_instants(study, tmp_path, [signal.SIGKILL] * 5, seed=seed)


def ended_at_random_instants(study, folder, signals, seed):
    draw = random.Random(seed)
    words = (write_study(folder, **KILLED), "--save_dir", folder / "out", "--workers", 2)
    for number, ending in enumerate(signals):
        trace = folder / f"trace-{number}"
        finished = {path.parent.name for path in folder.glob("out/trials/*/outcome.json")}
        process = command(folder, *map(str, words), STUDY_TRACE=str(trace))
        wait_for(trace, process)
        time.sleep(draw.uniform(0, 0.8))
        process.send_signal(ending)
        said = process.communicate(timeout=60)[0]
        if ending == signal.SIGINT and process.returncode:  # else it was complete by then
            assert (process.returncode, "the same command resumes the study" in said) == (130, True), said
        assert not finished & steps(trace).keys()
    finished = {path.parent.name for path in folder.glob("out/trials/*/outcome.json")}
    said, code = study(*words)
    assert code == 0, said
    assert not finished & steps(folder / "trace").keys()
    found = {run.config_hash: (run.status, run.metric, run.steps_done) for run in results(folder / "out")}
    assert found == uninterrupted(folder / "whole")


def uninterrupted(folder):
    """The outcomes of the same trials, run here, one after the other."""
    made = planner(**KILLED)
    made.check()
    found = {}
    for arm in made.study.arms:
        for trial in made.comparison(arm, made.study.budgets[0], {}):
            path = trial.folder(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".toml").write_text(trial.toml)
            task = {**trial.identity(), "config_hash": trial.hash, "metric": made.study.metric}
            run = run_trial(made.program, {**task, "folder": str(path), "config": str(path.with_suffix(".toml"))})
            found[trial.hash] = run.status, run.metric, run.steps_done
    return found


def wait_for(trace, process):
    """Until the first step, or the end of what has nothing left to run."""
    while not trace.exists() and process.poll() is None:
        time.sleep(0.02)


def working_in(folder):
    """Processes that have a file open there."""
    return [path for path in Path("/proc").glob("[0-9]*") if str(folder) in opened(path)]


def opened(process):
    """Files that a process has open, in one text."""
    try:
        return " ".join(str(path.readlink()) for path in (process / "fd").iterdir())
    except OSError:
        return ""
