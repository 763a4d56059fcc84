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
from lm_core.config import SamplingConfig
from lm_core.disk.files import optional, write_whole
from lm_core.errors import UserError, exit_code_of
from lm_core.model.init import initial_arrays
from lm_core.model.memory import check_memory
from lm_core.model.parameters import parameter_count, parameter_table
from lm_core.optim import state_shapes
from lm_core.report import write_report
from lm_core.run.about import About, command_line, optimizer_line
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.loop import Run, train
from lm_core.run.resume import (
    History,
    changes_of,
    compare_config_file,
    config_of,
    rate_change,
    recorded_config,
    values_of,
)
from lm_core.run.seeds import for_each_seed
from lm_core.run.state import RunState, is_complete
from lm_core.sampling import generate
from lm_core.schedules import learning_rate
from lm_core.terminal import put, say
from testbed_d.flags import Flags
from testbed_d.resume_policy import ADVICE, POLICY
from testbed_d.workload import FLAG_OF, Workload, plan, run_folder, schedule_of

PROGRAM = "testbed_d"
COMMAND = "uv run apps/testbed_d"
ROOT = Path("runs") / "testbed_d"
KEEP_CHECKPOINTS = 2


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: for_each_seed(sys.argv[1:], run), PROGRAM)


def run(argv: Sequence[str]) -> None:
    """One run, new or resumed."""
    flags = parse_flags(Flags, COMMAND, argv)
    folder = run_folder(flags, ROOT, datetime.now().strftime("%Y%m%d-%H%M%S"))
    if not flags.resume:
        folder.check_new()
    elif not folder.holds_run():
        raise UserError(f"--resume: {folder.path} holds no run")
    with folder.hold():
        _run(argv, flags, folder)


def _run(argv: Sequence[str], flags: Flags, folder: RunFolder) -> None:
    checkpoints = Checkpoints(folder.checkpoints, KEEP_CHECKPOINTS)
    checkpoint = _newest(checkpoints) if flags.resume else None
    if flags.resume:
        flags = _flags_over_run(argv, folder, checkpoint)
    workload = plan(flags)
    state, history, complete = RunState(), History(), False
    if checkpoint:
        history, notes = _history(folder, checkpoint, flags, workload)
        state = RunState.from_facts(checkpoint.facts)
        complete = is_complete(workload.loop, state)
        if complete and _has_sample(folder, flags, state):
            say(f"{folder.path} is complete at step {state.step}; nothing was changed")
            with optional("report.html"):
                put(f"report: {write_report(folder.path)}")
            return
        for note in notes:
            say(note)
    backend = load_backend(flags.backend)
    for note in (*workload.notes, backend.describe(workload.step)):
        say(note)
    check_memory(workload.memory, backend.memory(workload.step), "training")
    weights = checkpoint.weights if checkpoint else initial_arrays(workload.model, flags.seed)
    trainer = backend.build(workload.model, workload.optimizer, workload.step, weights, flags.seed)
    if checkpoint:
        trainer.load(checkpoint.weights, checkpoint.optimizer_state)
        say(f"resuming {folder.path} at step {state.step} of {flags.steps}")
    elif flags.resume:
        say("nothing was saved yet: starting at step 0")
    config = _of_run(flags)
    if not complete:  # else the sample alone is made up for, and the run stays what it was
        folder.prepare(config.to_toml())  # what fails before this leaves no run
    count, characters = parameter_count(workload.model), len(workload.vocabulary)
    say(f"{count:,} parameters, {characters} characters, run folder {folder.path}")
    about = About(
        command=command_line(COMMAND, argv),
        data=workload.data,
        parameters=count,
        optimizer=optimizer_line(workload.optimizer),
        backend=backend.name,
        device=backend.describe(workload.step),
        dtype=flags.dtype,
        seed=flags.seed,
    )
    facts = {
        **workload.facts,
        "config": config.model_dump(mode="json"),
        "history": history.facts,
        "about": about.model_dump(),
    }
    with Interrupts() as interrupts:
        with RunLog(folder.metrics, state.step, flags.steps) as log:
            if not complete:
                history.record(log)
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
                parent=checkpoint.path.stem if checkpoint else None,
            )
            state = train(run, state, interrupts)
        if interrupts.requested and state.step < flags.steps:
            if state.step:  # else nothing has been logged to report on
                with optional("report.html"):
                    write_report(folder.path)
            again = shlex.join([*COMMAND.split(), "--save_dir", str(folder.path), "--resume"])
            say(f"saved at step {state.step} of {flags.steps}; to go on: {again}")
            return
    _finish(trainer, workload, folder, flags, state)


def _newest(checkpoints: Checkpoints) -> Checkpoint | None:
    """The newest good checkpoint; None when the run was killed before it saved any.

    Raises:
        UserError: when all are damaged.
    """
    checkpoint = checkpoints.newest(say)
    if checkpoint is None and checkpoints.files():
        raise UserError(f"--resume: no checkpoint in {checkpoints.folder} is whole")
    return checkpoint


def _flags_over_run(argv: Sequence[str], folder: RunFolder, checkpoint: Checkpoint | None) -> Flags:
    """The flags of the command line over those of the run."""
    facts = checkpoint.facts if checkpoint else None
    base = recorded_config(Flags, folder, facts)
    if config_of(Flags, facts) and (wrong := compare_config_file(POLICY, Flags, folder, base)):
        say(wrong)
    return parse_flags(Flags, COMMAND, argv, base)


def _history(folder: RunFolder, checkpoint: Checkpoint, flags: Flags, workload: Workload) -> tuple[History, list[str]]:
    """What the resume changes, once it is sure that it may, and what there is to say of it.

    Raises:
        UserError: when the checkpoint is of another model, vocabulary or optimizer, or a flag differs that must not.
    """
    facts = checkpoint.facts
    before = Flags.parse(config_of(Flags, facts) or Flags.load(folder.config).model_dump())
    claims = {**values_of(before), "text": facts["text"][:12]}
    now = {**values_of(_of_run(flags)), "text": workload.text_sha1[:12]}
    try:
        history = changes_of(POLICY, claims, now, facts, ADVICE)
    except UserError as error:
        raise UserError(f"--resume: {error}") from None
    _check_fits(checkpoint, workload)
    other = facts["text"] != workload.text_sha1
    notes = ["note: the text is not the one this run began with"] if other else []
    rate = rate_change(schedule_of(before), workload.schedule, checkpoint.step, flags.steps)
    return history, [*notes, *history.lines(), *([rate] if rate else [])]


def _check_fits(checkpoint: Checkpoint, workload: Workload) -> None:
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


def _of_run(flags: Flags) -> Flags:
    """What config.toml says: all flags but those of one call, and a text that is found from any folder."""
    text = str(Path(flags.text).resolve()) if flags.text else ""
    return flags.model_copy(update={"text": text, "save_dir": "", "resume": False, "config": ""})


def _has_sample(folder: RunFolder, flags: Flags, state: RunState) -> bool:
    """Whether the sample of this very step has been written: the last but the report that a run leaves."""
    start = f"step {state.step},".encode()
    return not flags.sample or (folder.samples.is_file() and folder.samples.read_bytes().startswith(start))


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
