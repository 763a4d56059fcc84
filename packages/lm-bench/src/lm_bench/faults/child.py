"""The program that is hurt: a run as every app has it, of a tiny model.

trial -> Plan --lm_core.run.session--> exit code

python -m lm_bench.faults.child '{"folder": "run", "backend": "torch"}'
"""

import os
import sys
from pathlib import Path

from lm_bench.faults.harm import Announcing, Poisoning, WatchedBatches, prepare
from lm_bench.faults.trial import MODEL, OPTIMIZER, SCHEDULE, SEED, STEP, TOKENIZER, Trial, data
from lm_core.backend import load_backend
from lm_core.config import AdamWConfig, Config, LoopConfig, ModelConfig
from lm_core.run import session
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.plan import Plan
from lm_core.run.ranks import exit_code_of
from lm_core.run.resume import Policy
from lm_core.world import current

EVAL_EVERY = 10
POLICY = Policy(refused="", recorded="", no_effect="", call="")


class ChildConfig(Config):
    """Content of config.toml."""

    backend: str
    """The framework."""
    model: ModelConfig = MODEL
    """The model."""
    optimizer: AdamWConfig = OPTIMIZER
    """The optimizer."""


def main(trial: Trial) -> int:
    """Exit code of a trial."""
    os.environ.update(trial.environment)
    return exit_code_of(lambda: run(trial), "child")


def run(trial: Trial) -> None:
    """Train in the folder, or resume there."""
    prepare(trial)
    folder = RunFolder(Path(trial.folder))
    with session.opened(folder, ChildConfig, POLICY, resume=current().of_first(folder.holds_run)) as known:
        plan = plan_of(trial)
        plan = plan.resumed(known, lambda _: SCHEDULE) if known else plan
        backend = Poisoning(load_backend(trial.backend), trial)
        session.run(plan, folder, backend=backend, interrupts=Interrupts(echo=0))


def plan_of(trial: Trial) -> Plan:
    """The run of a trial."""
    corpus = data()
    return Plan(
        config=ChildConfig(backend=trial.backend),
        policy=POLICY,
        command="child",
        resume_command="child",
        backend=trial.backend,
        seed=SEED,
        model=MODEL,
        optimizer=OPTIMIZER,
        step=STEP.model_copy(update={"parallel": trial.parallel}),
        schedule=SCHEDULE,
        loop=LoopConfig(max_steps=trial.steps, log_every=1, eval_every=EVAL_EVERY, save_every=trial.save_every),
        keep=trial.keep,
        batches=WatchedBatches(corpus.training, trial),
        evaluation=corpus.validation,
        data="tokens of a random walk",
        training_tokens=len(corpus.training.tokens),
        tokenizer=TOKENIZER,
        sinks=lambda _folder, _start: [Announcing(trial.announced)],
    )


if __name__ == "__main__":
    os._exit(main(Trial.model_validate_json(sys.argv[1])))
