"""Size and cost of a run: printed before it starts and soon after, and what to change where it does not fit."""

import itertools
import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from lm_core.config import LoopConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows
from lm_core.errors import MemoryFullError, UserError
from lm_core.model.memory import training_memory
from lm_core.model.parameters import parameter_count
from lm_core.run import session
from lm_core.run.fitting import check_fits, fitting
from lm_core.run.folder import RunFolder
from lm_core.run.log import read_records
from lm_core.run.loop import Run

from .small_runs import MODEL, OPTIMIZER, TOKENS, Numpy, Still, plan_of, run

VARYING = StepConfig(varying_length=True)


def test_the_size_of_a_run_is_printed_before_it_starts(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run(plan_of(), folder)
    said = capsys.readouterr().err.splitlines()
    assert f"{parameter_count(MODEL):,} parameters, vocabulary 7, run folder {folder.path}" in said
    each = f"{32 / parameter_count(MODEL):.2g} per parameter"
    memory = f"memory: at least {plan_of().memory.total / 1024:.1f} KiB"
    assert (
        f"60 training tokens, of which 4 steps of 2 sequences (8 tokens) read 32 (0.53 epochs, {each}); {memory}"
        in said
    )
    roomy = Numpy()
    roomy.room = 3 << 30
    run(plan_of(training_tokens=32), RunFolder(folder.path / "other"), backend=roomy)
    assert f"(1.0 epochs, {each}); {memory} of 3.0 GiB\n" in capsys.readouterr().err
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


class OutOfMemoryError(RuntimeError):
    """As torch calls it on CUDA."""


ALL = {"grad_accum_steps": "parts", "gradient_checkpointing": "less", "seq_len": "T", "d_model": "D", "batch_size": "B"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the memory is full"),
        (MemoryFullError("the GPU's memory is full (80 GiB)"), r"the GPU's memory is full \(80 GiB\)"),
        (MemoryError(), "the memory is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory is full"),
    ],
)
def test_a_memory_that_a_step_fills_is_one_line_with_the_keys_to_change_and_nothing_is_lost(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    take = Still.step

    def step(trainer: Still, batch: Batch, lr: float) -> dict[str, Any]:
        if trainer.taken == 3:
            raise error
        return take(trainer, batch, lr)

    monkeypatch.setattr(Still, "step", step)
    with pytest.raises(UserError, match=said) as caught:
        run(plan_of(knobs=ALL), folder)
    assert str(caught.value).endswith(
        ": raise parts to 2, or turn on less, or lower B to 1, the most that may fit, or lower T or D;"
        " the checkpoint of step 2 is kept"
    )
    assert "a step on 2 rows of 4 tokens needs at least " in str(caught.value)
    checkpoint = session.newest_checkpoint(folder)
    assert checkpoint
    assert checkpoint.step == 2


def test_another_error_of_a_step_is_not_hidden(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Still, "step", step)
    with pytest.raises(RuntimeError, match="mat1"):
        run(plan_of(), folder)


LARGE = ModelConfig(vocab_size=100, seq_len=64, d_model=64, n_layers=4, n_heads=2)


@pytest.mark.parametrize("rows", [12, 24, 60])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("full", [False, True])
def test_what_the_advice_names_fits(rows: int, parts: int, full: bool) -> None:
    """Each way alone is enough by the estimate; where the memory was full, what is computed at once is halved too."""
    step = StepConfig(grad_accum_steps=parts)
    plan = plan_of(
        model=LARGE, step=step, knobs=ALL, batches=RandomWindows(np.zeros(99, int), rows, LengthRule(64, 64), 0)
    )
    room = training_memory(LARGE, OPTIMIZER, step, 60 if full else 11, 64).total
    if full:
        with pytest.raises(UserError) as caught, fitting(plan, room):
            raise MemoryError
    elif rows // parts > 11:
        with pytest.raises(UserError) as caught:
            check_fits(plan, room)
    else:
        check_fits(plan, room)
        return
    found = re.fullmatch(r".*: raise parts to (\d+), (?:or turn on less, )?or lower B to (\d+), .*", str(caught.value))
    assert found
    more, lower = int(found[1]), int(found[2])
    assert rows % more == lower % parts == 0
    for changed, others in ((step.model_copy(update={"grad_accum_steps": more}), rows), (step, lower)):
        assert training_memory(LARGE, OPTIMIZER, changed, others, 64).total <= room
        assert not full or others // changed.grad_accum_steps <= rows // parts // 2


def test_where_micro_batches_are_counted_both_are_changed_and_the_step_stays() -> None:
    names = {**ALL, "micro_batch_size": "rows"}
    batches = RandomWindows(np.zeros(99, int), 24, LengthRule(64, 64), 0)
    plan = plan_of(model=LARGE, step=StepConfig(grad_accum_steps=2), knobs=names, batches=batches)
    room = training_memory(LARGE, OPTIMIZER, plan.step, 11, 64).total
    with pytest.raises(
        UserError, match=r": lower rows to (\d+) and raise parts to (\d+), or .*, or lower T or D$"
    ) as caught:
        check_fits(plan, room)
    rows, parts = map(int, re.findall(r"to (\d+)", str(caught.value)))
    assert rows * parts == 24
    assert training_memory(LARGE, OPTIMIZER, StepConfig(grad_accum_steps=parts), 24, 64).total <= room
    assert " B " not in str(caught.value).split(": ")[-1]


def test_where_no_batch_fits_the_model_is_to_be_smaller() -> None:
    with pytest.raises(UserError, match=r"has 10\.0 KiB: lower the width of the model$"):
        check_fits(plan_of(model=LARGE), 10240)
    room = training_memory(LARGE, OPTIMIZER, StepConfig(), 1, 200).total
    with pytest.raises(UserError, match=r"MiB: lower the sequence length or the width of the model$"):
        check_fits(plan_of(model=LARGE, batches=RandomWindows(np.zeros(999, int), 2, LengthRule(500, 500), 0)), room)
