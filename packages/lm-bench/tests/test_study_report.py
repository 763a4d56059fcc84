"""The report of a study's folder, from nothing but its files."""

import json
from dataclasses import replace

import pytest

from lm_bench.study.config import StudyConfig
from lm_bench.study.differences import Difference
from lm_bench.study.folder import StudyAbout, prepare_folder
from lm_bench.study.report import PAGE, write_report
from lm_bench.study.result import RunResult
from lm_bench.study.tuning import Choice
from lm_core.errors import UserError

from .study_files import STUDY
from .study_results import result


@pytest.fixture
def folder(tmp_path):
    """A study of two arms by three seeds, of which B is the better one and has lost a run."""
    out = tmp_path / "out"
    prepare_folder(out, StudyConfig.parse({**STUDY, "seeds": 3, "target": 2.5}, "study.toml"))
    resolved = {arm: {"optimizer.beta2": beta2, "schedule.kind": "cosine"} for arm, beta2 in (("A", 0.9), ("B", 0.95))}
    alarm = Difference("optimizer.eps", {"A": 1, "B": 2}, True)
    choices = [Choice("A", 4, {"lr": 0.3}, ("lr",), 2), Choice("B", 4, {"lr": 0.1}, (), 2)]
    alarms = [alarm.line, *choices[0].alarms]
    StudyAbout("c0de", [{"line": "a machine, torch 1.2"}], resolved, [alarm], choices, alarms).write(out)
    for arm, gain, lr in (("A", 0.0, 0.3), ("B", 0.5, 0.1)):
        for seed in range(3):
            lost = (arm, seed) == ("B", 2)
            run = result(arm, seed, None if lost else 3.0 + 0.1 * seed - gain, budget=4, point={"lr": lr})
            write(out, replace(run, message="loss_nats is nan" if lost else ""), [4.0, 3.1 - gain])
        for tried in (0.1, 0.3):
            write(out, result(arm, 1000, 3.0 + tried, budget=4, point={"lr": tried}, stage="tuning"), [3.0])
    return out


def write(out, run: RunResult, losses):
    name = f"{run.stage}-{run.arm}-{run.seed}-{run.point['lr']}"
    replace(run, folder=out / "trials" / name).write()
    records = [
        {"kind": "eval", "step": step, "loss_nats": loss, "seconds": float(step)} for step, loss in enumerate(losses, 1)
    ]
    (out / "trials" / name / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_report_has_the_question_the_alarms_and_every_table(folder):
    text = write_report(folder)
    page = (folder / PAGE).read_text()
    for line in (
        "Question: Is A better than B?", "Measured on: a machine, torch 1.2", "Code version: c0de",
        "3 paired seeds show a mean difference of 3.26 standard deviations",
        "ALARM: optimizer.eps differs, and no field of the arms names it: A 1, B 2",
        "ALARM: A, 4 steps: the best lr is 0.3, at the edge of its grid",
        "ALARM: B, 4 steps, torch: 1 of 3 runs diverged or failed, and are in no mean",
        "-0.5000", "To a validation loss of 2.5 nats", "lr 0.3 (at the edge)", "loss_nats is nan",
    ):  # fmt: skip
        assert line in text
        assert line.removeprefix("ALARM: ").partition(": ")[2] in page
    assert "<figcaption>Loss <" in page
    assert "optimizer.beta2" in page


def test_a_run_whose_metric_is_not_a_number_is_lost(folder):
    path = next(folder.glob("trials/comparison-A-0-*/outcome.json"))
    path.write_text(path.read_text().replace('"metric": 3.0', '"metric": NaN'))
    assert "A, 4 steps, torch: 1 of 3 runs diverged or failed" in write_report(folder)


def test_a_run_without_a_log_has_no_curve(folder):
    for path in folder.glob("trials/comparison-*/metrics.jsonl"):
        path.unlink()
    assert "never" in write_report(folder)
    assert "<figcaption>Loss <" not in (folder / PAGE).read_text()


def test_a_folder_that_is_not_of_a_study_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a study"):
        write_report(tmp_path)
