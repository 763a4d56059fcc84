"""The training loop: the only one there is.

    for each step: batch -> trainer.step -> log if due -> evaluate if due -> save if due -> stop if asked

Batches that are sampled with the weights themselves (`SampledBatches`) serve some steps: the run stops and saves only
between two samplings.

The loop waits for the device only where something is due. Losses and gradient norms in between are kept, unread, and
checked at the next due moment, so a NaN is found before anything is saved and its step is named.

A save holds the step up only while the trainer takes a snapshot; checking, writing and proving it is a thread's work
(`writer`). The next save, the end and an error wait for the current one, so what is reported as kept is on the disk. A
save that fails is retried after a pause, with what the trainer holds then, and training continues in between.

Once the steps after a call's first record are timed, one line estimates the time of the whole call. It has the clock of
the records, so it costs no wait either.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lm_core.backend import Metrics, NumpyArrays, Trainer
from lm_core.config import LoopConfig
from lm_core.data.batches import Batch, Batches, rank_batch
from lm_core.errors import NonFiniteError, UserError
from lm_core.run.checkpoint import Checkpoints, DamagedError
from lm_core.run.evaluation import BytesOf, Score, evaluate
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog
from lm_core.run.norms import weight_norms
from lm_core.run.plan import SampledBatches
from lm_core.run.state import RunState, stops_early
from lm_core.run.writer import Writer
from lm_core.world import ALONE, World

_LAST_ATTEMPTS = 5
"""Attempts of the save at the end."""
_FEWEST_TIMED = 3
"""Steps that an estimate of the time stands on, at least."""
_WORTH_AN_ESTIMATE = 60.0
"""Seconds of a call: how long a shorter one takes is soon seen."""


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens at `step`."""
    return every > 0 and step % every == 0


@dataclass
class Run:
    """Everything `train` needs; made once, by `lm_core.run.session`. Of several ranks each has its own, alike but for
    the log and the checkpoints, which only the first one writes."""

    trainer: Trainer
    batches: Batches
    evaluation: Sequence[Batch]
    """Validation batches; the validation loss is the mean over their tokens. Without any there is none."""
    learning_rate: Callable[[int], float]
    config: LoopConfig
    log: RunLog
    checkpoints: Checkpoints
    metadata: dict[str, Any]
    """Metadata of a checkpoint besides the loop's own state: configs, tokenizer."""
    bits_name: str = "bits_per_token"
    """Name of loss / ln 2 in records."""
    bytes_of: BytesOf | None = None
    """UTF-8 bytes of a batch's targets; with it, records hold `bits_per_byte`."""
    perplexity: bool = False
    """Whether evaluations hold `perplexity`, e to the loss of a token."""
    flops_per_token: float | None = None
    """Operations of a training step for each token (`lm_core.model.flops`)."""
    peak_flops: float | None = None
    """Operations the device can do in a second; with flops_per_token, records hold their utilization, `mfu`."""
    parent: str | None = None
    """Name of the checkpoint that was saved last, or resumed from."""
    world: World = ALONE
    grad_accum_steps: int = 1
    """Micro-batches of a step, of each of which a rank takes its share."""
    after_save: Callable[[RunState], None] | None = None
    """Called where a checkpoint is due, with the weights that it holds: shows a sample."""
    retry_seconds: Sequence[float] = (1, 2, 4, 8, 15, 30, 60)
    """Seconds before the save is retried, after the first, the second, ... failure in a row; the last one repeats."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds since any moment."""

    def __post_init__(self) -> None:
        self.unread: list[tuple[int, Metrics]] = []
        self.mark, self.tokens_since_mark, self.steps_since_mark = self.clock(), 0, 0
        self.timed_steps, self.timed_seconds = -1, 0.0
        self.is_estimated = False
        self.writer, self.saved_step = Writer(), 0
        self.failures, self.retry_at = 0, math.inf
        self.shown_step = 0

    def kept(self) -> str:
        """Name the checkpoint to go back to, once the current save has ended."""
        _settle(self, wait=True)
        return f"the checkpoint of step {self.saved_step} is kept" if self.saved_step else "no checkpoint was saved"


def train(run: Run, state: RunState, interrupts: Interrupts) -> RunState:
    """Take the run from `state` to its end, or to where it is interrupted or stops early; saves before it returns.

    Raises:
        NonFiniteError: when a loss, gradient norm or weight is NaN or infinite, naming the step. Nothing is saved
            after it.
        UserError: when the last checkpoint cannot be written.
    """
    config, started = run.config, run.clock() - state.seconds
    run.saved_step, steps = state.step, config.max_steps - state.step
    if config.save_every:
        run.trainer.snapshot()  # the memory for it is made ready here, and does not hold up the first save
    _restart_clock(run)
    try:
        while state.step < config.max_steps and not (
            _may_stop(run, state.step) and _is_to_stop(run, state, interrupts)
        ):
            step = state.step + 1
            batch = rank_batch(run.batches, step, run.world.rank, run.world.size, run.grad_accum_steps)
            lr = run.learning_rate(step)
            run.unread.append((step, run.trainer.step(batch, lr)))
            state.step = step
            run.tokens_since_mark += batch.tokens * run.world.size
            run.steps_since_mark += 1
            if step == 1 or due(step, config.log_every):
                _log(run, step, batch, lr, started)
                _estimate(run, steps)
                _restart_clock(run)
            at_ends = config.eval_ends and step in (1, config.max_steps)
            if run.evaluation and (at_ends or due(step, config.eval_every)):
                _evaluate(run, state, started)
            state.seconds = run.clock() - started
            may_save = _may_stop(run, step)
            if may_save and (due(step, config.save_every) or (config.save_best and state.is_best)):
                _start_to_save(run, state)
                _show(run, state)
            elif may_save and run.world.any(time.monotonic() >= run.retry_at):
                _start_to_save(run, state)
            _settle(run, wait=False)
            run.log.step_done()
        _settle(run, wait=True)
        if run.world.of_first(lambda: run.saved_step != state.step):
            _save_at_the_end(run, state)
    except BaseException:
        with contextlib.suppress(Exception):  # what the thread met beside it matters less
            _settle(run, wait=True)
        raise
    return state


def _may_stop(run: Run, step: int) -> bool:
    """Whether a run can be resumed after a step from its weights and optimizer state alone."""
    return not isinstance(run.batches, SampledBatches) or due(step, run.batches.every)


def _is_to_stop(run: Run, state: RunState, interrupts: Interrupts) -> bool:
    """Whether the run is to stop here: all ranks stop after the same step, whichever of them was asked."""
    return stops_early(run.config, state) or run.world.any(interrupts.requested)


def weights_to_evaluate(trainer: Trainer, config: LoopConfig) -> contextlib.AbstractContextManager[None]:
    """A context in which the trainer has the weights that evaluations and samples are of."""
    return trainer.averaged() if config.eval_average else contextlib.nullcontext()


def _check_finite(run: Run) -> None:
    """Read what the steps have left, and stop at the first that is not finite."""
    for step, metrics in run.unread:
        for name in ("loss_nats", "grad_norm"):
            if not math.isfinite(float(metrics[name])):
                where = f" ({_bad_gradients(run, metrics)})" if name == "grad_norm" else ""
                raise NonFiniteError(f"step {step}: {name} is {float(metrics[name])}{where}; {run.kept()}")
    run.unread.clear()


def _bad_gradients(run: Run, metrics: Metrics) -> str:
    """Name the parameters with the gradients that are not finite."""
    norms = dict(zip(run.trainer.weights(), metrics["grad_norms"].tolist(), strict=True))
    bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"that of {bad[0]}{others}" if bad else "their sum overflows"


def _all_finite(run: Run, step: int, figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"step {step}: {name} is {value}; {run.kept()}")


def _log(run: Run, step: int, batch: Batch, lr: float, started: float) -> None:
    metrics = run.unread[-1][1]
    _check_finite(run)
    now = run.clock()
    text_bytes = sum(run.world.of_all(run.bytes_of(batch))) if run.bytes_of else 0
    score = Score(float(metrics["loss_nats"]), batch.tokens * run.world.size, text_bytes)
    speed = run.tokens_since_mark / (now - run.mark)
    values = {
        "loss_nats": score.loss_nats,
        run.bits_name: score.bits,
        **score.bits_per_byte(),
        "lr": lr,
        "grad_norm": float(metrics["grad_norm"]),
        "tokens_per_second": speed,
        **({"mfu": run.flops_per_token * speed / run.peak_flops} if run.flops_per_token and run.peak_flops else {}),
        "seconds": now - started,
        **run.trainer.diagnostics(),
        **(run.batches.metrics(step) if isinstance(run.batches, SampledBatches) else {}),
        **(_norms(run, step) if run.config.log_norms else {}),
    }
    run.log.record("train", step, values)
    if run.timed_steps < 0:  # the first step of a call compiles, allocates and tunes
        run.timed_steps = 0
    else:
        run.timed_steps += run.steps_since_mark
        run.timed_seconds += now - run.mark


def _estimate(run: Run, steps: int) -> None:
    """Print, once a call, how long its `steps` take, where that is long enough to be worth a line."""
    if run.is_estimated or run.timed_steps < _FEWEST_TIMED:
        return
    run.is_estimated = True
    each = run.timed_seconds / run.timed_steps
    if steps * each >= _WORTH_AN_ESTIMATE:
        whole, one = _readable(steps * each), _readable(each)
        run.log.remark(f"about {whole} for {steps:,} steps of {one} each, evaluations and saves apart")


def _readable(seconds: float) -> str:
    """A time in the unit that fits it, to two digits or the whole unit."""
    units = [("days", 2 * 86400.0, 86400.0), ("hours", 6000.0, 3600.0), ("min", 60.0, 60.0), ("s", 1.0, 1.0)]
    unit, size = next(((unit, size) for unit, least, size in units if seconds >= least), ("ms", 1e-3))
    return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.2g} {unit}"


def _norms(run: Run, step: int) -> dict[str, dict[str, float]]:
    """Weights by part; activations by block, on the same text each time, so that only the model moves them."""
    norms = {"weight_norm": weight_norms(run.trainer.weights())}
    if run.evaluation:
        norms["activation_rms"] = run.trainer.activation_norms(run.evaluation[0])
    for name, by_part in norms.items():
        _all_finite(run, step, {f"{name} of {part}": value for part, value in by_part.items()})
    return norms


def _evaluate(run: Run, state: RunState, started: float) -> None:
    """Log the validation loss and keep the score for early stopping."""
    _check_finite(run)
    with weights_to_evaluate(run.trainer, run.config):
        score = evaluate(run.trainer, run.evaluation, run.bytes_of, run.world)
    _all_finite(run, state.step, {"validation loss": score.loss_nats})
    values = {
        "loss_nats": score.loss_nats,
        run.bits_name: score.bits,
        **score.bits_per_byte(),
        **({"perplexity": score.perplexity()} if run.perplexity else {}),
        "seconds": run.clock() - started,
    }
    run.log.record("eval", state.step, values)
    state.evaluated(score.loss_nats, run.config)
    if stops_early(run.config, state):
        run.log.say(f"early stop at step {state.step}: {state.evals_without_gain} evaluations without a gain")
    _restart_clock(run)


def _restart_clock(run: Run) -> None:
    """Speed is that of training alone: what an evaluation or a save takes does not count."""
    run.mark, run.tokens_since_mark, run.steps_since_mark = run.clock(), 0, 0


def _start_to_save(run: Run, state: RunState) -> None:
    """Let the writer save what the trainer holds now, once it is done with the checkpoint before."""
    _check_finite(run)
    _settle(run, wait=True)
    read = run.trainer.snapshot()
    run.world.any(False)  # of a step that a rank has not lived to end nothing is saved
    if not run.world.is_first:
        return
    step, is_best, run.retry_at = state.step, state.is_best, math.inf
    metadata = {
        **run.metadata,
        "step": step,
        "val_loss": state.val_loss,
        "state": asdict(state),
        "log": run.log.metadata(),
        "parent": run.parent,
    }

    def work() -> None:
        weights, optimizer_state = read()
        for arrays in (weights, optimizer_state):
            _check_arrays(step, arrays)
        run.log.flush()  # a checkpoint is not to know of steps that the log does not
        path = run.checkpoints.save(weights, optimizer_state, metadata, keep_best=run.config.save_best)
        run.parent = path.stem
        run.log.saved(path, step, is_best)

    run.writer.start(step, work)
    _restart_clock(run)


def _check_arrays(step: int, arrays: NumpyArrays) -> None:
    for name, array in arrays.items():
        # Whatever is not finite shows in the smallest or the largest, and these take no memory.
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            raise NonFiniteError(f"step {step}: {name} is not finite")


def _settle(run: Run, *, wait: bool) -> None:
    """Record the end of a save; a disk that fails is reported, and training continues."""
    step, failure = _collect(run, wait=wait)
    if failure:
        pause = _pause(run, run.failures - 1)
        run.retry_at = time.monotonic() + pause
        run.log.say(f"step {step}: not saved ({failure}); training continues, and the save is retried in {pause:g} s")


def _pause(run: Run, failures: int) -> float:
    """Seconds to wait after a failure that follows `failures` others."""
    return run.retry_seconds[min(failures, len(run.retry_seconds) - 1)]


def _show(run: Run, state: RunState) -> None:
    """Call `after_save`, once a step."""
    if run.after_save and run.shown_step != state.step:
        run.after_save(state)
        run.shown_step = state.step


def _collect(run: Run, *, wait: bool) -> tuple[int, str | None]:
    """The step whose save has ended, and why it failed, if the disk did; the older checkpoint is then as it was."""
    done = run.writer.collect(wait=wait)
    if done is None:
        return 0, None
    if isinstance(done.error, OSError | DamagedError):
        run.failures += 1
        return done.step, getattr(done.error, "strerror", None) or str(done.error)
    if isinstance(done.error, NonFiniteError):
        raise NonFiniteError(f"{done.error}; {run.kept()}")
    if done.error is not None:
        raise done.error
    run.saved_step, run.failures = done.step, 0
    return done.step, None


def _save_at_the_end(run: Run, state: RunState) -> None:
    """Save and wait for it; a disk that keeps failing ends the run here."""
    for attempt in range(_LAST_ATTEMPTS):
        _start_to_save(run, state)
        _show(run, state)
        failure = run.world.of_first(lambda: _collect(run, wait=True)[1])
        if not failure:
            return
        if attempt + 1 < _LAST_ATTEMPTS:
            pause = _pause(run, attempt)
            run.log.say(f"step {state.step}: not saved ({failure}); the save is retried in {pause:g} s")
            time.sleep(pause)
    raise UserError(f"step {state.step} could not be saved: {failure}; {run.kept()}")
