"""A study that trains the seeds of an arm as one model: the same results, whatever ends it in between."""

import random
import signal
import time

import pytest

from lm_bench import cli
from lm_bench.study.result import results
from lm_core.errors import UserError

from .study_files import BACKED, HERE, command, planner, write_study
from .test_study_harness import KILLED, SPOILT, table, wait_for

pytestmark = BACKED

TOGETHER = {"together": True, "seeds": 3}


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    """The command in this process, whose workers alone are others: what it prints, and its exit code."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def run(*words):
        code = cli.run(["study", *map(str, words)])
        said = capsys.readouterr()
        return said.out + said.err, code

    return run


def numbers(folder):
    """Rows of the table, without the hash, by which runs that are trained together are others than those alone."""
    return [{key: value for key, value in row.items() if key != "config_hash"} for row in table(folder)]


def test_the_numbers_are_those_of_runs_alone_under_hashes_of_their_own(tmp_path, study):
    for name, changes in {"alone": {"seeds": 3}, "together": TOGETHER}.items():
        said, code = study(write_study(tmp_path, **changes), "--save_dir", tmp_path / name)
        assert code == 0, said
    assert numbers(tmp_path / "together") == numbers(tmp_path / "alone")
    alone, together = (
        {run.config_hash: run.stage for run in results(tmp_path / name)} for name in ("alone", "together")
    )
    assert {together[each] for each in alone.keys() & together.keys()} == {"tuning"}
    logs = [path.read_text() for path in (tmp_path / "together" / "trials").glob("*.log")]
    assert sum("seed 2: " in log for log in logs) == 2, "one log for the seeds of an arm"
    said, code = study("--challenge", tmp_path / "together")
    assert (code, said.count("bit for bit")) == (0, 2), said


def test_what_does_not_complete_is_the_result_of_each_seed(tmp_path, study):
    said, code = study(write_study(tmp_path, **SPOILT, together=True), "--save_dir", tmp_path / "out", "--workers", 1)
    assert code == 0, said
    assert {(run.arm, run.seed): run.status for run in results(tmp_path / "out")} == {
        (arm, seed): status
        for seed in (0, 1)
        for arm, status in {
            "whole": "complete",
            "diverges": "diverged",
            "fills": "out of memory",
            "dies": "out of memory",
        }.items()
    }


@pytest.mark.parametrize("seed", range(2))
def test_ended_at_random_instants_it_comes_to_the_same_numbers(tmp_path, study, seed):
    draw, changes = random.Random(seed), {**KILLED, **TOGETHER}
    words = (write_study(tmp_path, **changes), "--save_dir", tmp_path / "out", "--workers", 2)
    for number, ending in enumerate([signal.SIGKILL, signal.SIGINT, signal.SIGKILL]):
        trace = tmp_path / f"trace-{number}"
        process = command(tmp_path, *map(str, words), STUDY_TRACE=str(trace))
        wait_for(trace, process)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(ending)
        process.communicate(timeout=60)
    said, code = study(*words)
    assert code == 0, said
    assert study(write_study(tmp_path, **changes), "--save_dir", tmp_path / "whole")[1] == 0
    assert table(tmp_path / "out") == table(tmp_path / "whole")


def test_a_seed_that_is_finished_stays_a_part_of_its_model(tmp_path, study):
    """On their number the rounding of the others depends."""
    words = (write_study(tmp_path, **KILLED, **TOGETHER), "--save_dir", tmp_path / "out")
    assert study(*words)[1] == 0
    first = table(tmp_path / "out")
    for run in results(tmp_path / "out"):
        if run.seed == 1:
            (run.folder / "outcome.json").unlink()
            (run.folder / "result.json").unlink()
    assert study(*words)[1] == 0
    assert table(tmp_path / "out") == first
    made = planner(**KILLED, **TOGETHER)
    made.check()
    trials = made.comparison("A", made.study.budgets[0], {})
    assert [[trial.seed for trial in job] for job in made.jobs(trials)] == [[0, 1, 2]]
    assert [len(job) for job in planner(**KILLED).jobs(trials)] == [1, 1, 1]


def test_the_plan_has_the_time_of_all_seeds_at_once(tmp_path, study):
    path = write_study(tmp_path, budgets=[40], base={"pace": 0.001}, **TOGETHER)
    said, code = study(path, "--dry-run", "--workers", 1)
    assert code == 0, said
    assert "10 runs (0 finished)" in said


def test_what_cannot_be_trained_together_is_one_line_before_the_first_run(tmp_path):
    with pytest.raises(UserError, match="together: MLX trains one seed at a time"):
        planner(**TOGETHER, backends=["torch", "mlx"]).check()
    with pytest.raises(UserError, match=r"together: arms\.A: .*only on windows of one length"):
        planner(**TOGETHER, base={"spoilt": "lengths"}).check()
