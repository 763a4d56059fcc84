"""`transformerlm-train`: token files -> run folder.

    config --plan_run--> plan --lm_core.run.loop.train--> checkpoints, metrics.jsonl --> samples.txt, report.html

    config.toml  tokenizer/  metrics.jsonl  checkpoints/  samples.txt  report.html  result.json

A run folder is all that inference needs. result.json is there when the run has come to its end.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lm_core.backend import Backend, Trainer, load_backend
from lm_core.cli import parse_flags
from lm_core.config import SamplingConfig
from lm_core.continuation import Ending, continue_rows
from lm_core.data.batches import Batch
from lm_core.disk.files import make_folder, optional, write_whole
from lm_core.errors import UserError, exit_code_of
from lm_core.model.flops import flops_per_token
from lm_core.model.memory import check_memory
from lm_core.model.parameters import parameter_count
from lm_core.report import write_report
from lm_core.run.about import About, command_line, optimizer_line
from lm_core.run.checkpoint import Checkpoints
from lm_core.run.evaluation import BytesOf
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.loop import Run
from lm_core.run.loop import train as run_loop
from lm_core.run.resume import recorded_config
from lm_core.run.seeds import for_each_seed
from lm_core.run.sinks.console import metrics_line
from lm_core.run.sinks.sink import Sink
from lm_core.run.sinks.tensorboard import TensorBoardSink
from lm_core.run.sinks.wandb import WandbSink
from lm_core.run.state import RunState, is_complete
from lm_core.sampling import Generation
from lm_core.schedules import learning_rate
from lm_core.terminal import put, say
from lm_pipeline.commands.train_config import TrainConfig
from lm_pipeline.commands.train_plan import RunPlan, folder_of, plan_run
from lm_pipeline.program import run_program
from lm_pipeline.saved_model import TOKENIZER, newest_run
from lm_pipeline.tokens.tokenizers import tokenizer_in
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pieces import pieces_of

PROGRAM = "transformerlm-train"
COMMAND = f"uv run {PROGRAM}"
RESULT = "result.json"


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: for_each_seed(sys.argv[1:], run), PROGRAM)


def run(argv: Sequence[str]) -> int:
    """One run, new or resumed; returns the exit code."""
    return run_program(TrainConfig, PROGRAM, partial(train, argv=argv), argv, parse=parse_train)


def parse_train(cls: type[TrainConfig], program: str, argv: Sequence[str]) -> TrainConfig:
    """The config of the command line; with --resume, over that of the run.

    Raises:
        UserError: as `parse_flags`, and when there is no run to resume.
    """
    config = parse_flags(cls, program, argv)
    if not config.resume:
        return config
    folder = RunFolder(Path(config.save_dir) if config.save_dir else newest_run("--resume"))
    if not folder.holds_run():
        raise UserError(f"--resume: {folder.path} holds no run")
    folder.check_format()
    try:
        # Once the checkpoint has been read, `plan_run` compares the config with that of the checkpoint again.
        facts = Checkpoints(folder.checkpoints).newest_facts()
        saved = parse_flags(cls, program, argv, recorded_config(cls, folder, facts))
    except UserError as error:
        raise UserError(f"--resume, over the config of {folder.path}: {error}") from None
    return saved.model_copy(update={"save_dir": str(folder.path), "resume": True})


def train(config: TrainConfig, argv: Sequence[str] = ()) -> None:
    """One run, new or resumed; `argv` is what was typed, for the report.

    Raises:
        UserError: for a mistake in the config or what it names; nothing has been written then.
        NonFiniteError: when training diverges.
    """
    folder = folder_of(config)
    with folder.hold():
        plan = plan_run(config, folder)
        state = RunState.from_facts(plan.checkpoint.facts) if plan.checkpoint else RunState()
        if plan.checkpoint and is_complete(plan.config.training, state) and (folder.path / RESULT).exists():
            say(f"{folder.path} is complete at step {state.step}; nothing was changed")
            with optional("report.html"):
                put(f"report: {write_report(folder.path)}")
            return
        _train(config, plan, state, command_line(COMMAND, argv))


def _train(config: TrainConfig, plan: RunPlan, state: RunState, command: str) -> None:
    for note in plan.notes:
        say(note)
    backend = load_backend(config.backend)
    say(backend.describe(config.step))
    check_memory(plan.memory, backend.memory(config.step), "training")
    trainer = backend.build(plan.model, config.optimizer, config.step, plan.weights(), config.seed)
    if plan.checkpoint:
        trainer.load(plan.checkpoint.weights, plan.checkpoint.optimizer_state)
        say(f"resuming {plan.folder.path} at step {state.step} of {config.training.max_steps}")
    elif config.resume:
        say("nothing was saved yet: starting at step 0")
    complete = bool(plan.checkpoint) and is_complete(plan.config.training, state)
    sinks = prepare(plan, state.step, complete=complete)  # what fails before this leaves no run
    say(_summary(plan))
    with Interrupts() as interrupts:
        state = _run(plan, backend, trainer, sinks, state, interrupts, command)
        if interrupts.requested and state.step < config.training.max_steps:
            if state.step:  # else nothing has been logged to report on
                with optional("report.html"):
                    write_report(plan.folder.path)
            again = shlex.join([*COMMAND.split(), "--save_dir", str(plan.folder.path), "--resume"])
            say(f"saved at step {state.step} of {config.training.max_steps}; to go on: {again}")
            return
    finish(plan, trainer, state)


def prepare(plan: RunPlan, start: int, *, complete: bool = False) -> list[Sink]:
    """Make the run folder: the tokenizer, the sinks, and then the config, by which a folder is told to hold a run.

    Args:
        plan: the run.
        start: the step from which it goes on.
        complete: whether no step is left to take; the config stays as it is then.

    Raises:
        UserError: when it cannot be written, or would replace a tokenizer that is not the run's.
    """
    folder, made = plan.folder.path, list[Path]()
    try:
        plan.folder.check_links()
        made = make_folder(folder / TOKENIZER)
        if not plan.checkpoint and not _has_tokenizer(plan):
            plan.tokenizer.save(folder / TOKENIZER)
        sinks = _sinks(plan, start)
        (folder / RESULT).unlink(missing_ok=True)
        if not complete:  # else its result alone is made up for, and the run stays what it was
            plan.folder.prepare(plan.config.resolved())
    except (OSError, TokenizerError, UserError) as error:
        if made:  # else it is the user's, or an earlier call's
            shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot write to save_dir {folder}: {why}") from None
    return sinks


def _has_tokenizer(plan: RunPlan) -> bool:
    """Whether the folder holds the run's tokenizer already, as when it was named by that path."""
    path = plan.folder.path / TOKENIZER
    try:
        there = tokenizer_in(path)
    except TokenizerError as error:
        raise UserError(
            f"{path} holds a tokenizer that cannot be read, which a run would replace: give another --save_dir, or"
            f" move it away ({error})"
        ) from None
    if there is None:
        return False
    if there.fingerprint != plan.tokenizer.fingerprint:
        raise UserError(f"{path} holds another tokenizer, which a run would replace: give another --save_dir")
    return True


def bytes_of_targets(tokenizer: TextTokenizer) -> BytesOf:
    """How many bytes of text the targets of a batch stand for; special tokens are none."""
    lengths = np.array(tokenizer.byte_lengths)
    lengths[list(tokenizer.special_tokens.values())] = 0

    def count(batch: Batch) -> int:
        return int(lengths[batch.targets].sum())

    return count


def _summary(plan: RunPlan) -> str:
    tokens = plan.config.training.max_steps * plan.config.training.batch_size * plan.model.seq_len
    return (
        f"{parameter_count(plan.model):,} parameters, {len(plan.train):,} training tokens,"
        f" {tokens / len(plan.train):.1f} times read, run folder {plan.folder.path}"
    )


def _run(
    plan: RunPlan,
    backend: Backend,
    trainer: Trainer,
    sinks: list[Sink],
    state: RunState,
    interrupts: Interrupts,
    command: str,
) -> RunState:
    config, folder = plan.config, plan.folder
    total = config.training.max_steps
    with RunLog(folder.metrics, state.step, total, sinks, line=metrics_line) as log:
        if "console" not in config.logging.backend:
            log.sinks.remove(log.console)  # the bar stays, where there is one
        if not is_complete(plan.config.training, state):
            plan.history.record(log)
        return run_loop(
            Run(
                trainer,
                plan.batches,
                plan.evaluation,
                partial(learning_rate, plan.schedule),
                config.training,
                log,
                plan.checkpoints,
                {**plan.facts, "about": _about(plan, backend, command).model_dump()},
                bytes_of=bytes_of_targets(plan.tokenizer),
                perplexity=True,
                flops_per_token=flops_per_token(plan.model, plan.model.seq_len),
                peak_flops=backend.peak_flops(config.step),
                parent=plan.checkpoint.path.stem if plan.checkpoint else None,
            ),
            state,
            interrupts,
        )


def _about(plan: RunPlan, backend: Backend, command: str) -> About:
    config = plan.config
    name = config.logging.dataset or Path(config.data.train).name
    return About(
        command=command,
        data=f"{name}, {len(plan.train):,} training tokens",
        parameters=parameter_count(plan.model),
        optimizer=optimizer_line(config.optimizer),
        backend=backend.name,
        device=backend.describe(config.step),
        dtype=config.step.dtype,
        seed=config.seed,
    )


def _sinks(plan: RunPlan, start: int) -> list[Sink]:
    config, folder = plan.config, plan.folder.path
    sinks: list[Sink] = []
    if "tensorboard" in config.logging.backend:
        sinks.append(TensorBoardSink(folder, start))
    if "wandb" in config.logging.backend:
        said = config.model_dump(mode="json", exclude={"config", "print_config", "resume", "save_dir"})
        name, wandb = config.logging.run_name, config.wandb
        sinks.append(WandbSink(folder, wandb.project, said, wandb.entity or None, name, folder / TOKENIZER))
    return sinks


def finish(plan: RunPlan, trainer: Trainer, state: RunState) -> None:
    """The sample, the report, the result, and the last word."""
    folder, words = plan.folder, []  # printed when all is written: nobody may be reading
    if plan.config.training.sample_tokens:
        text = _sample(plan, trainer)
        with optional(folder.samples.name):
            write_whole(folder.samples, f"step {state.step}, temperature 1\n{text}\n".encode())
        words.append(f"\n--- sample at step {state.step} ---\n{text}\n---")
    report = "not written"
    with optional("report.html"):
        report = str(write_report(folder.path))
    first, last, best = state.first_val_loss, state.last_val_loss, state.best_val_loss
    with optional(RESULT):
        write_whole(folder.path / RESULT, (json.dumps(result_of(state), indent=2) + "\n").encode())
    if first is not None:
        words.append(f"validation loss {first:.4f} -> {last:.4f} nats (best {best:.4f} at step {state.best_step})")
    put("\n".join([*words, f"report: {report}"]))


def result_of(state: RunState) -> dict[str, Any]:
    """What a sweep compares runs by."""
    return {
        "step": state.step,
        "metrics.val_loss": state.last_val_loss,
        "metrics.best_val_loss": state.best_val_loss,
        "best_step": state.best_step,
        "metrics.seconds": round(state.seconds, 3),
    }


def _sample(plan: RunPlan, trainer: Trainer) -> str:
    tokenizer, training = plan.tokenizer, plan.config.training

    def begin() -> Generation:
        decoder = trainer.decoder(1, tokenizer.vocab_size)
        return Generation(decoder, [plan.prompt], plan.model.seq_len, plan.config.seed, SamplingConfig())

    ending = Ending(training.sample_tokens, () if tokenizer.eos_id is None else (tokenizer.eos_id,))
    [written] = continue_rows(begin, [pieces_of(tokenizer, plan.prompt, training.sample_prompt)], ending)
    return training.sample_prompt + written.text


if __name__ == "__main__":
    sys.exit(main())
