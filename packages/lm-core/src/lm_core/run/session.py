"""One run, from a plan to its folder: the only place that puts a run together.

    opened: lock, new or resumed     plan -> trainer -> folder prepared -> loop -> test loss, sample, result, report

    config.toml  tokenizer/  metrics.jsonl  checkpoints/  samples.txt  report.html  result.json

result.json is written when the run is complete. If a failing disk refuses the samples, the report or the result, one
line says so: the run itself is in its checkpoints.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lm_core.backend import Backend, Trainer, load_backend
from lm_core.config import Config
from lm_core.disk.files import make_folder, optional, write_whole
from lm_core.disk.untrusted import read_regular
from lm_core.errors import NonFiniteError, UserError
from lm_core.model.flops import flops_per_token
from lm_core.model.memory import readable
from lm_core.model.parameters import parameter_count
from lm_core.report import write_report
from lm_core.run.about import About, optimizer_line
from lm_core.run.checkpoint import Checkpoint, Checkpoints, DamagedError
from lm_core.run.evaluation import evaluate
from lm_core.run.fitting import check_fits, fitting
from lm_core.run.folder import RunFolder
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog, SilentLog, close_all
from lm_core.run.loop import Run, train, weights_to_evaluate
from lm_core.run.plan import Plan, SampledBatches
from lm_core.run.ranks import ECHO, check_ranks, one_folder
from lm_core.run.resume import Policy, Recorded, recorded
from lm_core.run.samples import Samples
from lm_core.run.shared import shared
from lm_core.run.sinks.sink import Sink
from lm_core.run.state import RunState, is_complete, verdict
from lm_core.run.summary import summary
from lm_core.schedules import learning_rate
from lm_core.terminal import put, say
from lm_core.world import World, current

_LARGEST_RESULT = 1 << 16
PEAK_MEMORY, TEST_LOSS = "metrics.peak_memory_bytes", "metrics.test_loss"
C = TypeVar("C", bound=Config)


@contextlib.contextmanager
def opened(
    folder: RunFolder, cls: type[C], policy: Policy, *, resume: bool, world: World | None = None
) -> Iterator[Recorded[C] | None]:
    """Hold a run folder, for a new run, or for one that is resumed, whose newest checkpoint and config it gives.

    Of several ranks the first one holds it for all. The run of ranks that their launcher has started again is resumed.

    Args:
        folder: the run folder.
        cls: the app's config.
        policy: what a resume may change of it.
        resume: whether a run is resumed; None is given for a new one.
        world: the ranks; by default those of this process.

    Raises:
        UserError: when another process holds the folder, a new run would write over something, there is nothing to
            resume, or it is a run of another app.
    """
    world = world or current()
    with contextlib.ExitStack() as held:
        resume = world.of_first(lambda: _hold(folder, resume, held, world))
        yield recorded(cls, policy, folder, newest_checkpoint(folder, world)) if resume else None


def _hold(folder: RunFolder, resume: bool, held: contextlib.ExitStack, world: World) -> bool:
    key = f"run {folder.path.resolve()}"
    resume = resume or (world.recall(key) is not None and folder.holds_run())
    if not resume:
        folder.check_new()
    held.enter_context(folder.hold())
    if not resume:
        folder.check_new()  # again: another process may have started one before the lock was ours
        world.remember(key, "")
    elif not folder.holds_run():
        raise UserError(f"{folder.path} holds no run to resume")
    return resume


def newest_checkpoint(folder: RunFolder, world: World | None = None) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None when it has saved none.

    Raises:
        UserError: when all are damaged, or the folder is of a newer format.
    """
    world, found = world or current(), list[Checkpoint | None]()
    checkpoints = Checkpoints(folder.checkpoints)

    def newest() -> str | None:
        folder.check_format()
        checkpoint = checkpoints.newest(say)
        if checkpoint is None and checkpoints.files():
            raise UserError(f"no checkpoint in {checkpoints.folder} is intact")
        found.append(checkpoint)
        return str(checkpoint.path) if checkpoint else None

    path = world.of_first(newest)
    if found:
        return found[0]
    try:
        return Checkpoints(folder.checkpoints).read(Path(path)) if path else None
    except DamagedError as error:
        raise UserError(f"rank {world.rank} cannot read what rank 0 can: {error}") from None


def run(
    plan: Plan,
    place: RunFolder | Callable[[], RunFolder],
    *,
    backend: Backend | None = None,
    interrupts: Interrupts | None = None,
    world: World | None = None,
) -> RunState:
    """Train as planned in a folder that the caller has locked; returns the state at the end.

    Args:
        plan: the run.
        place: its folder, which is made where it is missing; or what makes the folder of a new run, with its config and
            tokenizer, which is asked when nothing is left to fail.
        backend: in place of the one that the plan names.
        interrupts: in place of a new one.
        world: the ranks that train together, each of which calls this; by default those of this process.

    Raises:
        UserError: for what does not fit together or cannot be written; of a new run nothing has been written then.
        NonFiniteError: when training diverges.
    """
    world = world or current()
    plan = replace(plan, ranks=world.size)
    has_tokenizer = world.of_first(lambda: not isinstance(place, RunFolder) or _has_tokenizer(plan, place))
    plan.check_fits()
    plan.check_intervals()
    state = RunState.from_metadata(plan.checkpoint.metadata) if plan.checkpoint else RunState()
    complete = plan.checkpoint is not None and is_complete(plan.loop, state)
    if complete and isinstance(place, RunFolder) and world.of_first(lambda: _is_finished(plan, place, state)):
        say(f"{place.path} is complete at step {state.step:,}; nothing was changed")
        if world.is_first:
            _last_words(plan, place, [])
        return state
    for note in plan.notes:
        say(note)
    backend, asking = shared(plan, backend or load_backend(plan.backend), interrupts)
    say(backend.describe(plan.step))
    check_ranks(plan, world, backend)
    available = backend.memory(plan.step)
    check_fits(plan, available)
    with fitting(plan, available):
        trainer = backend.build(plan.model, plan.optimizer, plan.step, plan.initial_weights(), plan.seed)
        if plan.checkpoint:
            trainer.load(plan.checkpoint.weights, plan.checkpoint.optimizer_state)
    _choices(plan, trainer, world)
    folder = place if isinstance(place, RunFolder) else one_folder(place, world)
    if plan.checkpoint:
        say(f"resuming {folder.path} at step {state.step:,} of {plan.loop.max_steps:,}")
    elif isinstance(place, RunFolder) and folder.holds_run():
        say("no checkpoint was saved yet: starting at step 0")
    say(summary(plan, folder, available))
    # What is complete stays what it was: its end alone is made up for.
    config = isinstance(place, RunFolder) and not complete
    sinks = list[Sink]()
    world.of_first(lambda: sinks.extend(_prepare(plan, folder, state.step, tokenizer=not has_tokenizer, config=config)))
    samples = Samples(folder.samples, state.step) if world.is_first else None
    with asking or (Interrupts(ECHO) if world.size > 1 else Interrupts()) as asked:
        with _log(plan, folder, state, sinks, world) as log:
            if not complete:
                plan.history.record(log)
            loop = _loop(plan, folder, backend, trainer, samples, log, world)
            with fitting(plan, available, loop.kept):
                state = train(loop, state, asked)
                tested = _test(plan, trainer, state, log, world)
        if not is_complete(plan.loop, state):
            if world.is_first:
                _stopped(plan, folder, state)
            return state
    _finish(plan, folder, trainer, samples, state, {**tested, PEAK_MEMORY: backend.peak_memory(plan.step)}, world)
    return state


def _choices(plan: Plan, trainer: Trainer, world: World) -> None:
    """Have the trainer make the choices of the run so far, or of the first rank; report them, and where they differ."""
    before = plan.checkpoint.metadata.get("choices") if plan.checkpoint else None
    made = before if before or world.size == 1 else world.of_first(lambda: dict(trainer.choices()))
    if made:
        trainer.repeat(made)
    choices = trainer.choices()
    if choices:
        say("; ".join(f"{name}: {value}" for name, value in choices.items()))
    for name, value in (before or {}).items():
        if choices.get(name) != value:
            say(f"the run was computed with {name}: {value}; from here on its rounding may differ")


def _log(plan: Plan, folder: RunFolder, state: RunState, sinks: list[Sink], world: World) -> RunLog:
    if not world.is_first:
        return SilentLog()
    return RunLog(folder.metrics, state.step, plan.loop.max_steps, sinks, console=plan.console)


def _has_tokenizer(plan: Plan, folder: RunFolder) -> bool:
    """Whether a run folder holds the run's tokenizer already, as when it is resumed, or was named by that path.

    Raises:
        UserError: when it holds another one, which a run would replace.
    """
    advice = "which a run would replace: give another --save_dir"
    try:
        same = plan.tokenizer.is_saved_in(folder.tokenizer)
    except ValueError as error:
        raise UserError(f"{folder.tokenizer} holds a tokenizer that cannot be read, {advice} ({error})") from None
    if same is False and plan.checkpoint and plan.fits_tokenizer(plan.checkpoint):
        raise UserError(f"the tokenizer in {folder.tokenizer} is not the one that the run was trained with: restore it")
    if same is False and folder.holds_run():
        raise UserError(f"{folder.path} was trained with another tokenizer: give the run's own text or tokenizer")
    if same is False:
        raise UserError(f"{folder.tokenizer} holds another tokenizer, {advice}")
    return bool(same)


def _prepare(plan: Plan, folder: RunFolder, start: int, *, tokenizer: bool, config: bool) -> list[Sink]:
    """Make the run folder: the tokenizer, the sinks, and then the config, which marks a folder that holds a run.

    Raises:
        UserError: when it cannot be written; what was made is taken away again.
    """
    made, sinks = list[Path](), list[Sink]()
    try:
        folder.check_links()
        if tokenizer:
            made = make_folder(folder.tokenizer)
            plan.tokenizer.save(folder.tokenizer)
        sinks = plan.sinks(folder.path, start)
        if config:
            folder.prepare(plan.config_toml())
            folder.result.unlink(missing_ok=True)  # it was of fewer steps
    except BaseException as error:
        close_all(sinks, failed=True)
        if made:  # else it is the user's, or an earlier call's
            shutil.rmtree(folder.tokenizer, ignore_errors=True)
        if isinstance(error, OSError | ValueError):  # a tokenizer has its own error for a disk that fails
            raise UserError(f"cannot write to {folder.path}: {getattr(error, 'strerror', None) or error}") from None
        raise
    return sinks


def _loop(
    plan: Plan,
    folder: RunFolder,
    backend: Backend,
    trainer: Trainer,
    samples: Samples | None,
    log: RunLog,
    world: World,
) -> Run:
    about = About(
        command=plan.command,
        data=plan.data,
        parameters=parameter_count(plan.model),
        optimizer=optimizer_line(plan.optimizer),
        backend=backend.name,
        device=backend.describe(plan.step),
        dtype=plan.step.dtype,
        seed=plan.seed,
    )

    def show(state: RunState) -> None:
        assert plan.sample
        text = _sampled(plan, trainer, state.step)  # by every rank: sharded weights need them all
        log.say(_framed(text, state.step))
        if samples:
            with optional(folder.samples.name, log.say):
                samples.add(state.step, plan.sample.heading, text)

    return Run(
        trainer=trainer,
        batches=plan.batches.of(trainer) if isinstance(plan.batches, SampledBatches) else plan.batches,
        evaluation=plan.evaluation,
        learning_rate=partial(learning_rate, plan.schedule),
        config=plan.loop,
        log=log,
        checkpoints=Checkpoints(folder.checkpoints, plan.keep),
        metadata={**plan.checkpoint_metadata(), "about": about.model_dump(), "choices": trainer.choices()},
        bits_name=plan.bits_name,
        bytes_of=plan.bytes_of,
        perplexity=plan.perplexity,
        flops_per_token=None if plan.step.varying_length else flops_per_token(plan.model, plan.model.seq_len),
        peak_flops=world.size * peak if (peak := backend.peak_flops(plan.step)) else None,
        world=world,
        grad_accum_steps=plan.step.grad_accum_steps,
        parent=plan.checkpoint.path.stem if plan.checkpoint else None,
        after_save=show if plan.sample and plan.sample.at_saves else None,
    )


def _test(plan: Plan, trainer: Trainer, state: RunState, log: RunLog, world: World) -> dict[str, float]:
    """The loss on the test text, once the run is complete: for the log and the result."""
    if not plan.test or not is_complete(plan.loop, state):
        return {}
    with weights_to_evaluate(trainer, plan.loop):
        score = evaluate(trainer, plan.test, plan.bytes_of, world)
    if not math.isfinite(score.loss_nats):
        raise NonFiniteError(f"step {state.step}: test loss is {score.loss_nats}; the checkpoint of this step is kept")
    perplexity = {"perplexity": score.perplexity()} if plan.perplexity else {}
    log.record("test", state.step, {"loss_nats": score.loss_nats, **score.bits_per_byte(), **perplexity})
    return {TEST_LOSS: score.loss_nats}


def _stopped(plan: Plan, folder: RunFolder, state: RunState) -> None:
    if state.step:  # else nothing has been logged to report on
        with optional("report.html"):
            write_report(folder.path)
    saved = f"saved at step {state.step:,} of {plan.loop.max_steps:,}" if state.step else "nothing was trained yet"
    say(f"{saved}; to resume: {plan.resume_command}")


def _finish(
    plan: Plan,
    folder: RunFolder,
    trainer: Trainer,
    samples: Samples | None,
    state: RunState,
    figures: dict[str, float],
    world: World,
) -> None:
    """The sample, the result, the report, and the last words, which wait until all is written."""
    words, text = [], None
    if plan.sample and world.of_first(lambda: samples is not None and not samples.has(state.step)):
        text = _sampled(plan, trainer, state.step)
    if not samples:
        return
    if plan.sample and text is not None:
        with optional(folder.samples.name):
            samples.add(state.step, plan.sample.heading, text)
        words.append(f"\n{_framed(text, state.step)}")
    with optional(folder.result.name):
        write_whole(folder.result, (json.dumps(result_of(state) | figures, indent=2) + "\n").encode())
    if state.first_val_loss is not None:
        first, last, best = state.first_val_loss, state.last_val_loss, state.best_val_loss
        words.append(f"validation loss {first:.4f} -> {last:.4f} nats (best {best:.4f} at step {state.best_step:,})")
    words.append(f"peak memory {readable(int(figures[PEAK_MEMORY]))}")
    words += filter(None, [verdict(state, plan.model.vocab_size)])
    _last_words(plan, folder, words)


def _sampled(plan: Plan, trainer: Trainer, step: int) -> str:
    assert plan.sample
    with weights_to_evaluate(trainer, plan.loop):
        return plan.sample.text(trainer, step)


def _framed(text: str, step: int) -> str:
    return f"--- sample at step {step:,} ---\n{text.rstrip()}\n---"


def _last_words(plan: Plan, folder: RunFolder, words: list[str]) -> None:
    report = "not written"
    with optional("report.html"):
        report = str(write_report(folder.path))
    put("\n".join([*words, f"report: {report}", *plan.next_steps(folder.path)]))


def result_of(state: RunState) -> dict[str, Any]:
    """Result of a run, by which runs are compared."""
    return {
        "step": state.step,
        "metrics.val_loss": state.last_val_loss,
        "metrics.best_val_loss": state.best_val_loss,
        "best_step": state.best_step,
        "metrics.seconds": round(state.seconds, 3),
    }


def read_result(folder: RunFolder) -> dict[str, Any]:
    """The result of a run; empty where it has none, or one that cannot be read."""
    try:
        result = json.loads(read_regular(folder.result, _LARGEST_RESULT))
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) else {}


def _is_finished(plan: Plan, folder: RunFolder, state: RunState) -> bool:
    """Whether nothing is left to do at the end of the run: its result is the last that is written."""
    result = read_result(folder)
    return result.get("step") == state.step and (not plan.test or TEST_LOSS in result)
