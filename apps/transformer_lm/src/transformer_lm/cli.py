"""`uv run apps/transformer_lm`: flags -> save folder -> corpus, workload -> trainer -> run; or, to talk, -> prompts.

    new model            flags ----------------------------> run NNN-dataset in the save folder
    going on             newest checkpoint -> its flags, changed by those given here -> the same run
    another checkpoint   --identifier -> its flags, changed ... -> a new run that begins there
    --inference          checkpoint -> decoder -> prompts

A framework is imported only after the flags and the text have been found good, so --help and mistakes answer at once.
"""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lm_core.backend import Backend, Trainer, load_backend
from lm_core.cli import parse_flags
from lm_core.config import SamplingConfig
from lm_core.continuation import Ending, continue_rows
from lm_core.disk.files import make_folder, optional
from lm_core.disk.untrusted import append_regular
from lm_core.errors import UserError, exit_code_of
from lm_core.model.init import initial_arrays
from lm_core.model.memory import check_memory, decoding_memory
from lm_core.model.parameters import parameter_count
from lm_core.report import write_report
from lm_core.run.about import About, command_line, optimizer_line
from lm_core.run.checkpoint import Checkpoints, DamagedError
from lm_core.run.evaluation import evaluate
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.loop import Run, train
from lm_core.run.resume import compare_config_file, config_of, recorded_config
from lm_core.run.seeds import for_each_seed, has_seeds
from lm_core.run.state import RunState, is_complete
from lm_core.sampling import Generation
from lm_core.schedules import learning_rate
from lm_core.terminal import say
from lm_pipeline.generation.prompt_loop import run_prompts
from lm_pipeline.generation.settings import Settings
from lm_pipeline.generation.writer import Model
from lm_pipeline.text.named import dataset_named
from lm_pipeline.tokens.named import load_corpus
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer
from lm_tokenizer.errors import TokenizerError
from lm_tokenizer.pieces import pieces_of
from transformer_lm.flags import Flags
from transformer_lm.records import line
from transformer_lm.resume_policy import FIXED, POLICY, SHAPE
from transformer_lm.save_folder import Found, SaveFolder, copy_into, default_folder
from transformer_lm.workload import (
    Workload,
    check_checkpoint,
    check_same,
    check_weights,
    model_of,
    plan,
    resumed,
    step_of,
)

PROGRAM = "transformer_lm"
COMMAND = "uv run apps/transformer_lm"
TOKENIZER = "tokenizer"
_FACTS = {"model", "tokenizer", "data", "state"}
"""What every checkpoint of this app says."""


def main() -> int:
    """The program; returns its exit code."""
    return exit_code_of(lambda: command(sys.argv[1:]), PROGRAM)


def command(argv: Sequence[str]) -> int | None:
    """`run`, or with `--seeds` once for each of them, in save folders of their own that share their data."""
    run_one = partial(run, in_series=True) if has_seeds(argv) else run
    return for_each_seed(argv, run_one, resume=False, contradicts=("seed", "new_model", "identifier", "inference"))


def run(argv: Sequence[str], *, in_series: bool = False) -> int:
    """Train or go on with a model, or continue prompts; returns the exit code.

    Raises:
        UserError: for a mistake in the flags or what they name; nothing has been written then.
        NonFiniteError: when training diverges.
    """
    flags = parse_flags(Flags, COMMAND, argv)
    dataset_named(flags.dataset)  # a run's own, which is checked later, may be resumed without it
    path = Path(flags.save_dir) if flags.save_dir else default_folder()
    folder = SaveFolder(path, path.parent / "data" if in_series else None)
    if flags.new_model and (flags.identifier or flags.inference):
        other = "--identifier" if flags.identifier else "--inference"
        raise UserError(f"--new_model and {other} contradict each other: leave one out")
    if flags.inference:
        return _talk(argv, flags, folder)
    with folder.hold():
        _train(argv, flags, folder)
    return 0


def _train(argv: Sequence[str], flags: Flags, folder: SaveFolder) -> None:
    found = None if flags.new_model else _find(folder, flags.identifier)
    if found:
        flags = _flags_over(found, argv, FIXED)
    tokenizer = _tokenizer_of(found) if found else flags.tokenizer
    model_of(flags, 1)  # heads that do not fit need no dataset to be seen, nor does a GPU that is not there
    if flags.gpu:
        _describe(load_backend(flags.backend), flags)
    if found and flags.data_dir and not Path(flags.data_dir).exists():
        raise UserError(
            f"--data_dir {flags.data_dir}, where the run had its data, is not there: give its new place, or"
            " --data_dir '' to download it"
        )
    workload = plan(flags, load_corpus(flags.dataset, flags.data_dir, tokenizer, folder.data, say))
    checkpoint = found.checkpoint if found else None
    state = RunState.from_facts(checkpoint.facts) if checkpoint else RunState()
    complete = bool(checkpoint) and is_complete(workload.loop, state)
    notes: list[str] = []
    if found and checkpoint:
        check_checkpoint(checkpoint, workload, _name(found))
        workload, notes = resumed(workload, checkpoint, _flags_of(found))
    if found and complete and not (found.goes_on and flags.eval_test):
        begins = "" if found.goes_on else ", as a new run"
        say(f"{_name(found)} is complete: --num_iters above {state.step:,} trains on{begins}; nothing was changed")
        if found.goes_on:
            _report(found.run)
        return
    backend = load_backend(flags.backend)
    for note in (*notes * (not complete), _describe(backend, flags)):
        say(note)
    check_memory(workload.memory, backend.memory(workload.step), "training")
    weights = checkpoint.weights if checkpoint else initial_arrays(workload.model, flags.seed)
    trainer = backend.build(workload.model, workload.optimizer, workload.step, weights, flags.seed)
    if checkpoint:
        trainer.load(checkpoint.weights, checkpoint.optimizer_state)
    run_folder = found.run if found and complete else _run_folder(folder, found, flags, workload.tokenizer)
    say(_where(found, state, flags, run_folder))
    say(_summary(workload))
    facts = {**workload.facts, "about": _about(workload, backend, argv).model_dump()}
    parent = checkpoint.path.stem if checkpoint else None
    with Interrupts() as interrupts:
        state = _loop(trainer, workload, run_folder, facts, parent, state, interrupts)
        if state.step:  # else nothing has been logged to report on
            _report(run_folder)
        if state.step < flags.num_iters:
            again = shlex.join([*COMMAND.split(), "--save_dir", str(folder.path)])
            steps = f"saved at iteration {state.step:,} of {flags.num_iters:,}"
            say(f"{steps if state.step else 'nothing was trained yet'}; to go on: {again}")


def _about(workload: Workload, backend: Backend, argv: Sequence[str]) -> About:
    flags = workload.flags
    return About(
        command=command_line(COMMAND, argv),
        data=f"{flags.dataset}, {len(workload.corpus.splits['train']):,} training tokens",
        parameters=parameter_count(workload.model),
        optimizer=optimizer_line(workload.optimizer),
        backend=backend.name,
        device=backend.describe(workload.step),
        dtype=flags.dtype,
        seed=flags.seed,
    )


def _report(run_folder: RunFolder) -> None:
    with optional("report.html"):
        say(f"report: {write_report(run_folder.path)}")


def _find(folder: SaveFolder, identifier: str, *, saved: bool = False) -> Found | None:
    try:
        found = folder.find(identifier, say, saved=saved)
    except DamagedError as error:
        raise UserError(f"--identifier {identifier}: {error}; give another, or none for the newest good one") from None
    if found and found.checkpoint and not found.checkpoint.facts.keys() >= _FACTS:
        raise UserError(f"{_name(found)} was not saved by {PROGRAM}")
    return found


def _flags_over(found: Found, argv: Sequence[str], fixed: Sequence[str]) -> Flags:
    """The flags of the run that is gone on with, changed by those of the command line, but for those that are fixed."""
    facts = found.checkpoint.facts if found.checkpoint else None
    base = recorded_config(Flags, found.run, facts, goes_on=found.goes_on)
    if found.goes_on and config_of(Flags, facts) and (wrong := compare_config_file(POLICY, Flags, found.run, base)):
        say(wrong)
    flags = parse_flags(Flags, COMMAND, argv, base)
    check_same(flags.of_run, Flags.parse(base), _name(found), fixed)
    return flags


def _flags_of(found: Found) -> Flags:
    """Those that a checkpoint was saved with; from before they were recorded, those of config.toml."""
    known = config_of(Flags, found.checkpoint.facts if found.checkpoint else None)
    return Flags.parse(known) if known else Flags.load(found.run.config)


def _name(found: Found) -> str:
    if found.checkpoint is None:
        return f"run {found.run.path}, which has no checkpoint,"
    return f"checkpoint {found.checkpoint.path.stem[:12]} of {found.run.path} (iteration {found.checkpoint.step:,})"


def _tokenizer_of(found: Found) -> TextTokenizer:
    """The tokenizer that a run carries, which must be the one that its checkpoint was trained with."""
    path = found.run.path / TOKENIZER
    try:
        if found.checkpoint is None:
            return load_tokenizer(path)
        facts = found.checkpoint.facts["tokenizer"]
        tokenizer = load_tokenizer(f"{facts['kind']}:{path}")
    except TokenizerError as error:
        raise UserError(str(error)) from None
    if tokenizer.fingerprint != facts["fingerprint"]:
        raise UserError(f"the vocabulary in {path} is not the one that the checkpoint was trained with: put it back")
    return tokenizer


def _describe(backend: Backend, flags: Flags) -> str:
    try:
        return backend.describe(step_of(flags))
    except UserError as error:
        if not flags.gpu:
            raise
        why = str(error).removeprefix("device gpu: ").partition(";")[0]
        raise UserError(f"--gpu: {why}; use the CPU with --no_gpu") from None


def _run_folder(folder: SaveFolder, found: Found | None, flags: Flags, tokenizer: TextTokenizer) -> RunFolder:
    """Where the run goes on, or a new one."""
    config = flags.of_run.to_toml()
    if found and found.goes_on:
        found.run.prepare(config)
        return found.run

    def fill(run_folder: RunFolder) -> None:
        make_folder(run_folder.path / TOKENIZER)
        tokenizer.save(run_folder.path / TOKENIZER)
        if found and found.checkpoint:
            copy_into(run_folder, found)
        run_folder.prepare(config)

    try:
        return folder.begin(flags.dataset, fill)
    except OSError as error:
        raise UserError(f"cannot write to {folder.path}: {error.strerror}") from None
    except TokenizerError as error:
        raise UserError(f"cannot write to {folder.path}: {error}") from None


def _where(found: Found | None, state: RunState, flags: Flags, run_folder: RunFolder) -> str:
    if found is None:
        return f"new model in {run_folder.path}"
    if found.checkpoint is None:
        return f"{found.run.path} has no checkpoint: beginning again at iteration 0 in {run_folder.path}"
    begins = "" if run_folder.path == found.run.path else f" as a new run in {run_folder.path}"
    if state.step >= flags.num_iters:
        return f"{_name(found)} is complete: --num_iters above {state.step:,} trains on{begins}"
    return f"going on with {_name(found)} to iteration {flags.num_iters:,}{begins}"


def _summary(workload: Workload) -> str:
    train_file = workload.corpus.splits["train"]
    epochs = workload.flags.num_iters * workload.flags.batch_size / workload.batches.per_epoch
    return (
        f"{parameter_count(workload.model):,} parameters, {len(train_file):,} training tokens of"
        f" {workload.tokenizer.vocab_size:,} kinds, read {epochs:.1f} times"
    )


def _loop(
    trainer: Trainer,
    workload: Workload,
    folder: RunFolder,
    facts: dict[str, Any],
    parent: str | None,
    state: RunState,
    interrupts: Interrupts,
) -> RunState:
    flags = workload.flags
    with RunLog(folder.metrics, state.step, flags.num_iters, line=line) as log:
        if state.step < flags.num_iters:
            workload.history.record(log)

        def sample(state: RunState) -> None:
            text = _sample(trainer, workload, state.step)
            log.say(f"--- sample at iteration {state.step:,}\n{text.rstrip()}\n---")
            with optional(folder.samples.name, log.say):
                append_regular(folder.samples, f"--- iteration {state.step}\n{text}\n".encode())

        state = train(
            Run(
                trainer=trainer,
                batches=workload.batches,
                evaluation=workload.evaluation["validation"],
                learning_rate=partial(learning_rate, workload.schedule),
                config=workload.loop,
                log=log,
                checkpoints=Checkpoints(folder.checkpoints, flags.keep),
                facts=facts,
                bytes_of=workload.bytes_of(),
                perplexity=workload.of_words,
                parent=parent,
                after_save=sample if flags.sample_tokens else None,
            ),
            state,
            interrupts,
        )
        if flags.eval_test and state.step >= flags.num_iters:
            score = evaluate(trainer, workload.evaluation["test"], workload.bytes_of())
            figures = {"perplexity": score.perplexity()} if workload.of_words else score.bits_per_byte()
            log.record("test", state.step, {"loss_nats": score.loss_nats, **figures})
    return state


def _sample(trainer: Trainer, workload: Workload, step: int) -> str:
    flags, tokenizer = workload.flags, workload.tokenizer
    sampling = SamplingConfig(top_k=min(flags.top_k, tokenizer.vocab_size), temperature=flags.temperature)

    def begin() -> Generation:
        decoder = trainer.decoder(1, tokenizer.vocab_size)
        return Generation(decoder, [workload.prompt], workload.model.seq_len, flags.seed + step, sampling)

    pieces = pieces_of(tokenizer, workload.prompt, "")
    [written] = continue_rows(begin, [pieces], Ending(flags.sample_tokens))
    return written.text


def _talk(argv: Sequence[str], flags: Flags, folder: SaveFolder) -> int:
    found = _find(folder, flags.identifier, saved=True)
    if found is None or found.checkpoint is None:
        raise UserError(
            f"--inference: there is no checkpoint in {folder.path}: train a model first, or give its --save_dir"
        )
    flags = _flags_over(found, argv, SHAPE)
    tokenizer, checkpoint = _tokenizer_of(found), found.checkpoint
    model = model_of(flags, tokenizer.vocab_size)
    check_weights(model, checkpoint, _name(found))
    backend = load_backend(flags.backend)
    about = _describe(backend, flags)
    check_memory(decoding_memory(model, step_of(flags), 1), backend.memory(step_of(flags)), "decoding")
    decoder = backend.decoder(model, step_of(flags), checkpoint.weights, 1, tokenizer.vocab_size)
    settings = Settings(top_k=flags.top_k, temperature=flags.temperature, seed=flags.seed)
    return run_prompts(Model(f"{_name(found)}; {about}", model, tokenizer, decoder), settings)
