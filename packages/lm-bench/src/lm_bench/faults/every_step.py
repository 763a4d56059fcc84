"""Row: a run of 100 steps, resumed at each of them."""

import json
from pathlib import Path

from lm_bench.faults.bench import Bench
from lm_bench.faults.row import Row

STEPS = 100


def resumed_everywhere(bench: Bench, row: Row) -> None:
    """With accumulation, dropout, evaluations, and several epochs within the run."""
    steps = bench.count(STEPS, 12)
    trial = bench.trial("every-step", steps=steps)
    code = bench.finish(bench.start(trial, "steps"), 1200)
    results = [json.loads(line) for line in Path(trial.announced).read_text().splitlines()]
    row.trials = row.resumed = len(results)
    row.same = sum(not wrong for _, wrong in results)
    row.violations += [
        f"--only steps: resumed at step {step} it differs: {wrong[:4]}" for step, wrong in results if wrong
    ]
    if code != 0 or len(results) != steps - 1:
        row.violations.append(
            f"--only steps: exit code {code} after {len(results)} of {steps - 1}: {bench.said(trial)}"
        )
    else:
        bench.remove(trial)
