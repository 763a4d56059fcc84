"""Results of a study that was never run: what its arms reach is known."""

from pathlib import Path

import numpy as np

from lm_bench.study.analysis import Question
from lm_bench.study.curves import RunCurves
from lm_bench.study.result import RunResult

ARMS = ("adam .95", "adam .999", "kbeta")
QUESTION = Question("A study", "metrics.val_loss", ARMS, baseline=ARMS[0], target=2.0)


def result(arm=ARMS[0], seed=0, metric=2.0, **changes):
    """One result; a metric of None is a run that diverged."""
    values = {
        "arm": arm, "point": {"lr": 0.001}, "budget": 1000, "seed": seed, "backend": "torch", "stage": "comparison",
        "status": "complete" if metric is not None else "diverged", "message": "", "metric": metric, "seconds": 10.0,
        "steps_done": 1000, "peak_bytes": 1 << 20, "config_hash": "0", "folder": Path(f"{arm}-{seed}"),
    }  # fmt: skip
    return RunResult(**{**values, **changes})


def curves(losses, seconds_per_step=0.1, buckets=None, training=()):
    """Curves of a run that was evaluated every 100 steps, or as often as there are losses."""
    steps = 100.0 * np.arange(1, len(losses) + 1)
    training = np.asarray(training, float)
    return RunCurves(
        (np.arange(1.0, len(training) + 1), training), (steps, np.asarray(losses, float)),
        (steps, steps * seconds_per_step), {"beta2": {}, "sunspike": {}, **(buckets or {})},
    )  # fmt: skip
