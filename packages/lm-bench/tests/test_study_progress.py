"""What a person sees of a study that runs: the time left, a line for each run, or a live table."""

from dataclasses import replace
from pathlib import Path

import pytest

from lm_bench.study import progress
from lm_bench.study.plan import Trial
from lm_bench.study.progress import Durations, Progress, in_words
from lm_bench.study.result import RunResult

TRIALS = [
    Trial(arm, {"lr": 0.1}, budget, seed, "torch", "comparison", f"{arm}{budget}{seed}", "")
    for budget in (10, 20)
    for seed in (0, 1)
    for arm in ("A", "B")
]


def run(trial, seconds=1.0, **changes):
    made = RunResult(
        **trial.identity(), status="complete", message="", metric=1.5, seconds=seconds, steps_done=trial.budget,
        peak_bytes=None, config_hash=trial.hash, folder=Path(),
    )  # fmt: skip
    return replace(made, **changes)


def test_a_run_takes_as_long_as_those_of_its_arm_did_in_proportion_to_its_steps():
    known = Durations([run(TRIALS[0], 1.0), run(TRIALS[2], 3.0)])
    assert known.of("A", 10) == 2.0
    assert known.of("B", 20) == 4.0  # by the other arm's, as long as nothing else is known
    known.add(run(TRIALS[1], 10.0))
    assert known.of("B", 20) == 20.0
    assert known.total(TRIALS[:2]) == 12.0
    known.add(run(TRIALS[1], status="diverged", metric=None, seconds=0.0))
    assert known.of("B", 10) == 10.0
    assert Durations().total(TRIALS) is None


def test_without_a_terminal_each_run_is_a_line(capsys):
    shown = Progress("s", 2, [])
    shown.expect(TRIALS)
    shown.finished(run(TRIALS[0], 60.0))
    shown.finished(run(TRIALS[1], status="diverged", metric=None, message="step 3: loss_nats is nan"))
    shown.show([(TRIALS[2], 4)], force=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "A, lr 0.1, 10 steps, torch, seed 0: 1.5; 1 of 8 runs, 6 min left",
        "B, lr 0.1, 10 steps, torch, seed 0: diverged (step 3: loss_nats is nan); 2 of 8 runs, 5 min left",
    ]


def test_on_a_terminal_a_table_is_drawn_over_the_one_before(capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_terminal", lambda stream: True)
    shown = Progress("s", 2, [])
    shown.expect(TRIALS)
    shown.finished(run(TRIALS[0], 60.0))
    shown.show([(TRIALS[2], 4)])
    first = capsys.readouterr()
    assert first.err == ""  # what has completed is in the table
    table = first.out.splitlines()
    assert table[0] == "s: 1 of 8 runs, 6 min left"
    assert table[2].split() == ["A", "10", "0", "1", "1.5", "0"]
    assert table[-1] == "  running: A, lr 0.1, 10 steps, torch, seed 1, step 4"
    shown.show([(TRIALS[2], 5)])
    assert capsys.readouterr().out == ""  # once a second
    shown.show([], force=True)
    again = capsys.readouterr().out
    assert again.startswith(f"\x1b[{len(table)}F\x1b[J")


@pytest.mark.parametrize(("seconds", "words"), [(3.2, "3 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_are_for_people(seconds, words):
    assert in_words(seconds) == words
