"""A study whose runs are programs of `lm_pipeline.workers`: the same results as by its own workers."""

import signal
import time
from pathlib import Path

import pytest

from lm_bench import cli
from lm_bench.study import cluster
from lm_bench.study.result import results
from lm_core.errors import UserError
from lm_pipeline.workers import workers

from .study_files import BACKED, HERE, command, study_here, write_study
from .test_study_harness import KILLED, SPOILT, steps, table

pytestmark = BACKED


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    """The command in this process; its runs are programs of this machine."""
    monkeypatch.setenv("STUDY_TRACE", str(tmp_path / "trace"))
    monkeypatch.setattr(cluster, "workers", lambda on, count: workers("local", count or 2))
    return study_here(monkeypatch, capsys)


def test_the_table_is_that_of_the_workers_of_this_machine(tmp_path, study):
    path = write_study(tmp_path)
    said, code = study(path, "--save_dir", tmp_path / "there", "--on", "ray")
    assert code == 0, said
    once = steps(tmp_path / "trace")
    assert set(once.values()) == {4}
    assert study(path, "--save_dir", tmp_path / "there", "--on", "ray")[1] == 0
    assert steps(tmp_path / "trace") == once, "nothing runs again"
    assert study(path, "--save_dir", tmp_path / "here")[1] == 0
    assert table(tmp_path / "there") == table(tmp_path / "here")


def test_runs_that_end_badly_are_results_there_too(tmp_path, study):
    said, code = study(write_study(tmp_path, **SPOILT), "--save_dir", tmp_path / "out", "--on", "ray")
    assert code == 0, said
    assert {run.arm: run.status for run in results(tmp_path / "out")} == {
        "whole": "complete",
        "diverges": "diverged",
        "fills": "out of memory",
        "dies": "out of memory",
    }


def test_a_place_that_is_none_is_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    with pytest.raises(UserError, match="on = 'there' is not a place to work"):
        cli.run(["study", str(write_study(tmp_path)), "--save_dir", str(tmp_path / "out"), "--on", "there"])


@pytest.mark.slow
def test_on_ray_a_study_that_is_stopped_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path, trace = write_study(tmp_path, **KILLED), tmp_path / "trace"
    words = (str(path), "--save_dir", str(tmp_path / "out"), "--on", "ray", "--workers", "2")
    stopped = command(tmp_path, *words, STUDY_TRACE=str(trace))
    while not trace.exists():
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate(timeout=120)[0]
    assert (stopped.returncode, "the same command resumes" in said) == (130, True), said
    again = command(tmp_path, *words, STUDY_TRACE=str(trace))
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert set(steps(trace).values()) == {6}, "a step is done once"
