"""`uv run apps/testbed_d`: flags -> workload -> trainer -> run folder.

A framework is imported only after the flags and the text have been found good, so --help and mistakes answer at once.
"""

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from lm_core.backend import Trainer, load_backend
from lm_core.cli import parse_flags, peek
from lm_core.config import read_toml
from lm_core.errors import UserError, exit_code_of
from lm_core.model.init import initial_arrays
from lm_core.model.parameters import parameter_count, parameter_table
from lm_core.optim import state_shapes
from lm_core.report import write_report
from lm_core.run.checkpoint import Checkpoint, Checkpoints, DamagedError, write_whole
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunFolder, RunLog
from lm_core.run.loop import Run, RunState, train
from lm_core.sampling import SamplingConfig, generate
from lm_core.schedules import learning_rate
from testbed_d.flags import Flags
from testbed_d.workload import Workload, plan, run_folder

PROGRAM = "testbed_d"
ROOT = Path("runs") / "testbed_d"
KEEP_CHECKPOINTS = 2


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: run(sys.argv[1:]), PROGRAM)


def run(argv: Sequence[str]) -> None:
    """One run, new or resumed."""
    flags, folder = _flags_and_folder(argv)
    workload = plan(flags)
    backend = load_backend(flags.backend)
    for note in (*workload.notes, backend.describe(workload.step)):
        _say(note)
    checkpoints = Checkpoints(folder.checkpoints, KEEP_CHECKPOINTS)
    checkpoint = _checkpoint_to_resume(checkpoints, workload) if flags.resume else None
    folder.prepare(flags.model_copy(update={"resume": False, "config": ""}).to_toml())
    weights = checkpoint.weights if checkpoint else initial_arrays(workload.model, flags.seed)
    trainer = backend.build(workload.model, workload.optimizer, workload.step, weights, flags.seed)
    state = RunState()
    if checkpoint:
        trainer.load(checkpoint.weights, checkpoint.optimizer_state)
        state = RunState.from_facts(checkpoint.facts)
        _say(f"resuming {folder.path} at step {state.step} of {flags.steps}")
    count, characters = parameter_count(workload.model), len(workload.vocabulary)
    _say(f"{count:,} parameters, {characters} characters, run folder {folder.path}")
    with Interrupts() as interrupts:
        state = _train(trainer, workload, folder, checkpoints, state, interrupts)
        if interrupts.requested and state.step < flags.steps:
            again = shlex.join(["uv", "run", "apps/testbed_d", "--save_dir", str(folder.path), "--resume"])
            _say(f"saved at step {state.step} of {flags.steps}; to go on: {again}")
            return
    _finish(trainer, workload, folder, flags, state)


def _flags_and_folder(argv: Sequence[str]) -> tuple[Flags, RunFolder]:
    """The flags, over the config of the run that is resumed."""
    asked = {"save_dir": peek(argv, "save_dir") or "", "resume": peek(argv, "resume") is not None}
    path = run_folder(Flags.parse(asked), ROOT, datetime.now().strftime("%Y%m%d-%H%M%S"))
    folder = RunFolder(path)
    known: dict[str, Any] = {}
    if asked["resume"] and peek(argv, "help") is None:
        if not folder.config.exists():
            raise UserError(f"--resume: {path} holds no run")
        known = {**read_toml(folder.config), "save_dir": str(path)}
    flags = parse_flags(Flags, PROGRAM, argv, known)
    if not flags.resume and folder.holds_run():
        raise UserError(f"{path} already holds a run: go on with it by --resume, or give another --save_dir")
    return flags, folder


def _checkpoint_to_resume(checkpoints: Checkpoints, workload: Workload) -> Checkpoint | None:
    """The newest good checkpoint of this model; None when the run was killed before it saved any.

    Raises:
        UserError: when all are damaged, or they are of another model, vocabulary or optimizer.
    """
    checkpoint = checkpoints.newest(_say)
    if checkpoint is None:
        if any(checkpoints.folder.glob("*.metadata")):
            raise UserError(f"--resume: no checkpoint in {checkpoints.folder} is whole")
        _say("nothing was saved yet: starting at step 0")
        return None
    if checkpoint.facts["vocabulary"] != workload.vocabulary.characters:
        raise UserError("--resume: the text has another vocabulary than the run's; give the run's --text")
    for key, ours in workload.model.model_dump().items():
        theirs = checkpoint.facts["model"].get(key)
        if theirs != ours:
            raise UserError(f"--resume: the run's model has {key} {theirs}, not {ours}")
    expected = state_shapes(workload.optimizer, parameter_table(workload.model))
    if {name: array.shape for name, array in checkpoint.optimizer_state.items()} != expected:
        raise UserError("--resume: the run's optimizer state does not fit; give its --opt and --layer_bucket")
    return checkpoint


def _train(
    trainer: Trainer,
    workload: Workload,
    folder: RunFolder,
    checkpoints: Checkpoints,
    state: RunState,
    interrupts: Interrupts,
) -> RunState:
    log = RunLog(folder.metrics, state.step, workload.loop.max_steps)
    try:
        facts = {
            "model": workload.model.model_dump(mode="json"),
            "optimizer": workload.optimizer.model_dump(mode="json"),
            "vocabulary": workload.vocabulary.characters,
        }
        rate = partial(learning_rate, workload.schedule)
        return train(
            Run(
                trainer,
                workload.batches,
                workload.eval_batch,
                rate,
                workload.loop,
                log,
                checkpoints,
                facts,
                "bits_per_char",
            ),
            state,
            interrupts,
        )
    except (OSError, DamagedError) as error:
        raise UserError(f"cannot save to {folder.path}: {error}") from None
    finally:
        log.close()


def _finish(trainer: Trainer, workload: Workload, folder: RunFolder, flags: Flags, state: RunState) -> None:
    """The sample, the report, and the last word."""
    if flags.sample:
        vocabulary, prompt = workload.vocabulary, workload.prompt
        ids = generate(
            trainer.decoder(), vocabulary.encode(prompt).tolist(), flags.sample, flags.ctx, flags.seed, SamplingConfig()
        )
        text = vocabulary.decode(ids)
        write_whole(folder.samples, f"step {state.step}, temperature 1\n{prompt}{text}\n".encode())
        print(f"\n--- sample at step {state.step} ---\n{text}\n---")
    report = write_report(folder.path)
    print(
        f"validation loss {state.first_val_loss:.4f} -> {state.last_val_loss:.4f} nats (best {state.best_val_loss:.4f})"
    )
    print(f"report: {report}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
