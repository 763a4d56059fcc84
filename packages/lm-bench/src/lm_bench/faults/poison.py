"""Row: NaN and infinity in a loss, a gradient norm, a weight, the optimizer's state: never in a checkpoint."""

import re

import numpy as np

from lm_bench.faults.bench import Bench
from lm_bench.faults.harm import GRADIENT
from lm_bench.faults.outcome import Outcome
from lm_bench.faults.row import Row
from lm_bench.faults.trial import MODEL, OPTIMIZER, SAVE_EVERY
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes

NOT_FINITE = ("nan", "inf", "-inf")


def poisoned(bench: Bench, row: Row) -> None:
    """The run ends with 1 and names a step and a tensor; every checkpoint is finite, and the run can be resumed.

    What is wrong in a tensor is found when the loss or a gradient shows it, or else by the next save.
    """
    table = parameter_table(MODEL)
    state = [name for name, shape in state_shapes(OPTIMIZER, table).items() if shape]
    for i in range(bench.count(100, 4)):
        draw = bench.draw("poison", i)
        weight, part = list(table)[int(draw.integers(len(table)))], state[int(draw.integers(len(state)))]
        where = ("loss", f"{GRADIENT}{weight}", weight, part)[i % 4]
        value, step = NOT_FINITE[int(draw.integers(3))], int(draw.integers(1, bench.steps - SAVE_EVERY))
        what = f"--only poison --seed {bench.seed}, trial {i}: {value} in {where} at step {step}"
        trial = bench.trial(f"poison-{i}", poison=where, poison_value=value, poison_at=step)
        code = bench.finish(bench.start(trial))
        row.trials += 1
        last = (bench.said(trial).splitlines() or [""])[-1]
        named = re.search(r"error: step (\d+): (\w.*?) is ", last)
        at_once = i % 4 < 2
        if code != 1 or named is None or not step <= int(named[1]) <= step + (0 if at_once else SAVE_EVERY):
            row.violations.append(f"{what}: exit code {code}: {last}")
        elif at_once and (("loss_nats", weight)[i % 4] not in last):
            row.violations.append(f"{what}: it is not named: {last}")
        found = bench.check_kept(row, trial, what)
        if found.step >= step + (not at_once) or not _finite(found):
            row.violations.append(f"{what}: it was saved, step {found.step}")
        bench.resume(row, trial, what)


def _finite(found: Outcome) -> bool:
    if not found.checkpoint:
        return True
    arrays = (*found.checkpoint.weights.values(), *found.checkpoint.optimizer_state.values())
    return all(np.isfinite(array).all() for array in arrays)
