"""The program that is hurt: a run as every app puts it together, of a tiny model.

hold the folder -> newest good checkpoint, or fresh weights -> trainer -> lm_core.run.loop.train -> exit code

python -m lm_bench.faults.child '{"folder": "run", "backend": "torch"}'
"""

import os
import sys
from pathlib import Path

from lm_bench.faults.harm import Announcing, StoppingLog, WatchedBatches, prepare, put_poison
from lm_bench.faults.trial import MODEL, OPTIMIZER, RATE, SEED, STEP, Trial, data
from lm_core.backend import load_backend
from lm_core.config import LoopConfig
from lm_core.errors import exit_code_of
from lm_core.model.init import initial_arrays
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.loop import Run, train
from lm_core.run.state import RunState
from lm_core.terminal import say

EVAL_EVERY = 10


def main(trial: Trial) -> int:
    """A trial from its beginning to its exit code. Signals are taken note of all the time."""
    with Interrupts(echo=0) as interrupts:
        return exit_code_of(lambda: run(trial, interrupts), "child")


def run(trial: Trial, interrupts: Interrupts) -> None:
    """Train in the folder, or go on there."""
    prepare(trial)
    backend = load_backend(trial.backend)
    folder = RunFolder(Path(trial.folder))
    with folder.hold():
        checkpoints = Checkpoints(folder.checkpoints, trial.keep)
        checkpoint = checkpoints.newest(say)
        folder.prepare(f'backend = "{trial.backend}"\n\n[model]\n{MODEL.to_toml()}\n[optimizer]\n{OPTIMIZER.to_toml()}')
        weights = checkpoint.weights if checkpoint else initial_arrays(MODEL, SEED)
        trainer = backend.build(MODEL, OPTIMIZER, STEP, weights, SEED)
        state = RunState()
        if checkpoint:
            trainer.load(checkpoint.weights, checkpoint.optimizer_state)
            state = RunState.from_facts(checkpoint.facts)
        say(f"going on from step {state.step}")
        corpus = data()
        facts = {"model": MODEL.model_dump(mode="json"), "optimizer": OPTIMIZER.model_dump(mode="json"), "data": SEED}
        config = LoopConfig(max_steps=trial.steps, log_every=1, eval_every=EVAL_EVERY, save_every=trial.save_every)
        sinks = [Announcing(trial.announced)]
        with StoppingLog(folder.metrics, state.step, trial.steps, sinks).watched(trial) as log:
            train(
                Run(
                    trainer=put_poison(trainer, trial),
                    batches=WatchedBatches(corpus.training, trial),
                    evaluation=corpus.validation,
                    learning_rate=RATE,
                    config=config,
                    log=log,
                    checkpoints=checkpoints,
                    facts=facts,
                    parent=checkpoint.path.stem if checkpoint else None,
                    retry_seconds=(0.02,),
                ),
                state,
                interrupts,
            )


if __name__ == "__main__":
    os._exit(main(Trial.model_validate_json(sys.argv[1])))
