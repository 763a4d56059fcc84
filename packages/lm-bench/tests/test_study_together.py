"""A study that trains the seeds of an arm as one model: the same results, whatever ends it in between."""

import random
import signal
import time

import pytest

from lm_bench.study.cost import plan_lines
from lm_bench.study.progress import Durations, in_words
from lm_bench.study.result import results
from lm_core.errors import UserError

from .study_files import BACKED, command, planner, study_here, write_study
from .study_results import result
from .test_study_harness import KILLED, SPOILT, table, wait_for

pytestmark = BACKED

TOGETHER = {"together": True, "seeds": 3}


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    """The command in this process, whose workers alone are others: what it prints, and its exit code."""
    return study_here(monkeypatch, capsys)


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
    alone = planner(**KILLED)
    alone.check()
    assert [len(job) for job in alone.jobs(alone.comparison("A", 6, {}))] == [1, 1]


def test_the_plan_has_the_time_of_jobs(tmp_path, study):
    """Of 2 arms: 2 points by one tuning seed alone, 10 s each, and one model of 3 seeds, 20 s."""
    made = planner(**TOGETHER)
    made.check()
    tuned, compared = result("A", 0, stage="tuning"), result("A", 0, seconds=20.0)
    lines = plan_lines(made.study, 1, Durations([tuned, compared]), [])
    assert "10 runs (0 finished)" in lines[2]
    assert f"about {in_words(2 * (2 * 10 + 20) * 4 / 1000)};" in lines[2]
    several = planner(**TOGETHER, tuning_seeds=[7, 8])
    lines = plan_lines(several.study, 1, Durations([tuned, compared]), [])
    assert f"14 runs (0 finished), 56 steps, 1 at once, 1 thread each, about {in_words(0.32)};" in lines[2]
    trials = made.comparison("A", 1000, {}) + made.tuning("A", 1000, [{"lr": 0.1}])
    assert Durations([tuned, compared]).total(trials) == pytest.approx(30.0)
    said, code = study(write_study(tmp_path, budgets=[40], **TOGETHER), "--dry-run", "--workers", 1)
    assert (code, "10 runs (0 finished), 400 steps, 1 at once, 1 thread each, about" in said) == (0, True), said


def test_what_cannot_be_trained_together_is_one_line_before_the_first_run(tmp_path):
    with pytest.raises(UserError, match="together: MLX trains one seed at a time"):
        planner(**TOGETHER, backends=["torch", "mlx"]).check()
    with pytest.raises(UserError, match=r"together: arms\.A: .*only on windows of one length"):
        planner(**TOGETHER, base={"spoilt": "lengths"}).check()
