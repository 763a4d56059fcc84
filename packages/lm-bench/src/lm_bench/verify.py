"""`lm-bench verify RUN`: `lm_pipeline.verify` as a table or JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from lm_bench.flags import VerifyFlags
from lm_core.terminal import put
from lm_pipeline.verify.check import check_run, find_runs, verify_table


def verify(flags: VerifyFlags, paths: Sequence[str]) -> int:
    """1 when something is damaged."""
    runs = [check_run(folder) for folder in find_runs(paths)]
    if flags.output == "json":
        put(json.dumps([{**asdict(run), "folder": str(run.folder), "sound": run.sound} for run in runs], indent=2))
    else:
        put(verify_table(runs))
    return 0 if all(run.sound for run in runs) else 1
