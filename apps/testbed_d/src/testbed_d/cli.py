"""`uv run apps/testbed_d`: flags -> plan -> session (`lm_core.run.app`).

A framework is imported only after the flags and the text have been found good, so --help and mistakes answer at once.
"""

from pathlib import Path

from lm_core.run.app import App
from lm_pipeline.training import next_steps_of_seeds
from testbed_d.flags import Flags
from testbed_d.resume_policy import POLICY
from testbed_d.workload import COMMAND, plan, schedule_of

APP = App(
    name="testbed_d",
    command=COMMAND,
    flags=Flags,
    policy=POLICY,
    root=Path("runs") / "testbed_d",
    plan=plan,
    schedule=schedule_of,
    next_steps_of_seeds=next_steps_of_seeds,
)
main, run = APP.main, APP.run
