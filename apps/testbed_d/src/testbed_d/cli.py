"""`uv run apps/testbed_d`: flags -> workload -> trainer -> run folder.

A framework is imported only after the flags and the text have been found good, so --help and mistakes answer at once.
"""

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from lm_core.backend import Trainer, load_backend
from lm_core.cli import parse_flags
from lm_core.errors import UserError, exit_code_of
from lm_core.model.init import initial_arrays
from lm_core.model.memory import check_memory
from lm_core.model.parameters import parameter_count, parameter_table
from lm_core.optim import state_shapes
from lm_core.report import write_report
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.files import optional, write_whole
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.loop import Run, train
from lm_core.run.state import RunState
from lm_core.sampling import SamplingConfig, generate
from lm_core.schedules import learning_rate
from lm_core.terminal import put, say
from testbed_d.flags import Flags
from testbed_d.workload import FLAG_OF, Workload, plan, run_folder

PROGRAM = "testbed_d"
COMMAND = "uv run apps/testbed_d"
ROOT = Path("runs") / "testbed_d"
KEEP_CHECKPOINTS = 2


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: run(sys.argv[1:]), PROGRAM)


def run(argv: Sequence[str]) -> None:
    """One run, new or resumed."""
    flags, folder = _flags_and_folder(argv)
    with folder.hold():
        _run(flags, folder)


def _run(flags: Flags, folder: RunFolder) -> None:
    workload = plan(flags)
    backend = load_backend(flags.backend)
    for note in (*workload.notes, backend.describe(workload.step)):
        say(note)
    check_memory(workload.memory, backend.memory(workload.step), "training")
    checkpoints = Checkpoints(folder.checkpoints, KEEP_CHECKPOINTS)
    checkpoint = _checkpoint_to_resume(checkpoints, workload) if flags.resume else None
    weights = checkpoint.weights if checkpoint else initial_arrays(workload.model, flags.seed)
    trainer = backend.build(workload.model, workload.optimizer, workload.step, weights, flags.seed)
    state = RunState()
    if checkpoint:
        trainer.load(checkpoint.weights, checkpoint.optimizer_state)
        state = RunState.from_facts(checkpoint.facts)
        say(f"resuming {folder.path} at step {state.step} of {flags.steps}")
    folder.prepare(_config_of_run(flags))  # what fails before this leaves no run
    count, characters = parameter_count(workload.model), len(workload.vocabulary)
    say(f"{count:,} parameters, {characters} characters, run folder {folder.path}")
    with Interrupts() as interrupts:
        parent = checkpoint.path.stem if checkpoint else None
        state = _train(trainer, workload, folder, checkpoints, parent, state, interrupts)
        if interrupts.requested and state.step < flags.steps:
            if state.step:  # else nothing has been logged to report on
                with optional("report.html"):
                    write_report(folder.path)
            again = shlex.join([*COMMAND.split(), "--save_dir", str(folder.path), "--resume"])
            say(f"saved at step {state.step} of {flags.steps}; to go on: {again}")
            return
    _finish(trainer, workload, folder, flags, state)


def _flags_and_folder(argv: Sequence[str]) -> tuple[Flags, RunFolder]:
    """The flags, over the config of the run if one is resumed, and the run's folder."""
    flags = parse_flags(Flags, COMMAND, argv)
    folder = run_folder(flags, ROOT, datetime.now().strftime("%Y%m%d-%H%M%S"))
    if flags.resume:
        if not folder.config.exists():
            raise UserError(f"--resume: {folder.path} holds no run")
        folder.check_format()
        return parse_flags(Flags, COMMAND, argv, Flags.load(folder.config).model_dump()), folder
    folder.check_new()
    return flags, folder


def _config_of_run(flags: Flags) -> str:
    """What config.toml says: all flags but those of one call, and a text that is found from any folder."""
    text = str(Path(flags.text).resolve()) if flags.text else ""
    return flags.model_copy(update={"text": text, "save_dir": "", "resume": False, "config": ""}).to_toml()


def _checkpoint_to_resume(checkpoints: Checkpoints, workload: Workload) -> Checkpoint | None:
    """The newest good checkpoint of this model; None when the run was killed before it saved any.

    Raises:
        UserError: when all are damaged, or they are of another model, vocabulary or optimizer.
    """
    checkpoint = checkpoints.newest(say)
    if checkpoint is None:
        if checkpoints.files():
            raise UserError(f"--resume: no checkpoint in {checkpoints.folder} is whole")
        say("nothing was saved yet: starting at step 0")
        return None
    if checkpoint.facts["vocabulary"] != workload.vocabulary.characters:
        raise UserError("--resume: the text has another vocabulary than the run's; give the run's --text")
    for key, ours in workload.model.model_dump().items():
        theirs = checkpoint.facts["model"].get(key)
        if theirs != ours:
            raise UserError(f"--resume: the run's model has --{FLAG_OF.get(key, key)} {theirs}, not {ours}")
    table = parameter_table(workload.model)
    if {name: array.shape for name, array in checkpoint.weights.items()} != {n: p.shape for n, p in table.items()}:
        raise UserError(f"--resume: {checkpoint.path.stem}.safetensors does not hold this model's parameters")
    expected = state_shapes(workload.optimizer, table)
    if {name: array.shape for name, array in checkpoint.optimizer_state.items()} != expected:
        raise UserError("--resume: the run's optimizer state does not fit; give its --opt and --layer_bucket")
    if checkpoint.facts["text"] != workload.text_sha1:
        say("note: the text is not the one this run began with")
    return checkpoint


def _train(
    trainer: Trainer,
    workload: Workload,
    folder: RunFolder,
    checkpoints: Checkpoints,
    parent: str | None,
    state: RunState,
    interrupts: Interrupts,
) -> RunState:
    facts = {
        "model": workload.model.model_dump(mode="json"),
        "optimizer": workload.optimizer.model_dump(mode="json"),
        "vocabulary": workload.vocabulary.characters,
        "text": workload.text_sha1,
    }
    with RunLog(folder.metrics, state.step, workload.loop.max_steps) as log:
        run = Run(
            trainer=trainer,
            batches=workload.batches,
            evaluation=[workload.eval_batch],
            learning_rate=partial(learning_rate, workload.schedule),
            config=workload.loop,
            log=log,
            checkpoints=checkpoints,
            facts=facts,
            bits_name="bits_per_char",
            parent=parent,
        )
        return train(run, state, interrupts)


def _finish(trainer: Trainer, workload: Workload, folder: RunFolder, flags: Flags, state: RunState) -> None:
    """The sample, the report, and the last word."""
    words = []  # printed when all is written: nobody may be reading
    if flags.sample:
        vocabulary, prompt = workload.vocabulary, workload.prompt
        ids = vocabulary.encode(prompt).tolist()
        continuation = generate(trainer.decoder(), ids, flags.sample, flags.ctx, flags.seed, SamplingConfig())
        text = vocabulary.decode(continuation)
        with optional(folder.samples.name):
            write_whole(folder.samples, f"step {state.step}, temperature 1\n{prompt}{text}\n".encode())
        words.append(f"\n--- sample at step {state.step} ---\n{text}\n---")
    report = "not written"
    with optional("report.html"):
        report = str(write_report(folder.path))
    first, last, best = state.first_val_loss, state.last_val_loss, state.best_val_loss
    words.append(f"validation loss {first:.4f} -> {last:.4f} nats (best {best:.4f} at step {state.best_step})")
    put("\n".join([*words, f"report: {report}"]))
