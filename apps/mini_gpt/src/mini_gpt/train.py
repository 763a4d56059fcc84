"""`uv run apps/mini_gpt/train_bpe.py`: flags -> plan -> session (`lm_core.run.app`)."""

from pathlib import Path

from lm_core.run.app import App
from lm_pipeline.training import next_steps_of_seeds
from mini_gpt.flags import Flags
from mini_gpt.resume_policy import POLICY
from mini_gpt.workload import COMMAND, plan, schedule_of

APP = App(
    name="train_bpe",
    command=COMMAND,
    flags=Flags,
    policy=POLICY,
    root=Path("runs") / "mini_gpt",
    plan=plan,
    schedule=schedule_of,
    next_steps_of_seeds=next_steps_of_seeds,
)
main, run = APP.main, APP.run
