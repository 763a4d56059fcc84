"""Size and cost of a run, which are printed before it starts and soon after."""

import itertools
from dataclasses import replace
from functools import partial

import pytest

from lm_core.config import LoopConfig, StepConfig
from lm_core.data.batches import LengthRule, RandomWindows
from lm_core.model.parameters import parameter_count
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records
from lm_core.run.loop import Run

from .small_runs import MODEL, TOKENS, plan_of, run

VARYING = StepConfig(varying_length=True)


def test_the_size_of_a_run_is_printed_before_it_starts(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run(plan_of(), folder)
    said = capsys.readouterr().err.splitlines()
    assert f"{parameter_count(MODEL):,} parameters, vocabulary 7, run folder {folder.path}" in said
    each = f"{32 / parameter_count(MODEL):.2g} per parameter"
    memory = f"memory: at least {plan_of().memory.total / 1024:.1f} KiB"
    assert f"60 training tokens, of which 4 steps read 32 (0.53 epochs, {each}); {memory}" in said
    varying = plan_of(steps=1000, batches=RandomWindows(TOKENS, 2, LengthRule(1, 7), 0), step=VARYING)
    assert 7500 <= varying.tokens <= 8500
    assert varying.largest == (2, 7)
    assert replace(varying, loop=LoopConfig(max_steps=1)).largest == varying.batches.batch(1).inputs.shape


@pytest.mark.parametrize("console", [True, False])
def test_records_and_the_estimate_of_the_time_are_for_the_console(
    folder: RunFolder, console: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(session, "Run", partial(Run, clock=lambda: next(hours)))
    run(plan_of(console=console, loop=LoopConfig(max_steps=6, log_every=1)), folder)
    said = capsys.readouterr()
    assert ("hours for 6 steps" in said.err) == console
    assert ('"kind": "train"' in said.out) == console
    assert len(read_records(folder.metrics)) == 8
