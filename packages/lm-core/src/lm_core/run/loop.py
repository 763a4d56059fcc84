"""The training loop: the only one there is.

    for each step: batch -> trainer.step -> log if due -> evaluate if due -> save if due -> stop if asked

The loop waits for the device only where something is due. Losses and gradient norms in between are kept, unread, and
checked at the next due moment, so a NaN is found before anything is saved and its step is named.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from pydantic import Field

from lm_core.backend import Metrics, Trainer
from lm_core.config import Config
from lm_core.data.batches import Batch, Batches
from lm_core.errors import NonFiniteError, UserError
from lm_core.run.checkpoint import Checkpoints, DamagedError
from lm_core.run.interrupts import Interrupts
from lm_core.run.log import RunLog


class LoopConfig(Config):
    """When what is due; all in steps. An interval of 0 means never, but a run is always saved when it ends."""

    max_steps: int = Field(gt=0)
    """Length of the run."""
    log_every: int = Field(20, ge=0)
    """Training records. The first step is logged too."""
    eval_every: int = Field(0, ge=0)
    """Evaluations. The first and the last step are evaluated too."""
    save_every: int = Field(0, ge=0)
    """Checkpoints."""
    early_stop_patience: int = Field(0, ge=0)
    """Stop after so many evaluations in a row without a gain; 0 never stops."""
    early_stop_min_delta: float = Field(0.0, ge=0)
    """What counts as a gain, in nats."""
    early_stop_warmup: int = Field(0, ge=0)
    """Evaluations up to this step do not count."""


@dataclass
class RunState:
    """What the loop knows beside the trainer; it travels in the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    first_val_loss: float | None = None
    last_val_loss: float | None = None
    best_val_loss: float | None = None
    gained_val_loss: float | None = None
    best_step: int = 0
    evals_without_gain: int = 0

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """The state in a checkpoint's facts."""
        return cls(**facts["state"])


def stops_early(config: LoopConfig, state: RunState) -> bool:
    """Whether patience has run out. It is the config's, so a resumed run may be given more."""
    return 0 < config.early_stop_patience <= state.evals_without_gain


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens at `step`."""
    return every > 0 and step % every == 0


@dataclass
class Run:
    """Everything `train` needs; made once, by an app."""

    trainer: Trainer
    batches: Batches
    eval_batch: Batch
    learning_rate: Callable[[int], float]
    config: LoopConfig
    log: RunLog
    checkpoints: Checkpoints
    facts: dict[str, Any]
    """What a checkpoint says beside the loop's own state: configs, vocabulary."""
    bits_name: str = "bits_per_token"
    """What loss / ln 2 is called here."""

    def __post_init__(self) -> None:
        self.unread: list[tuple[int, Metrics]] = []
        self.mark, self.tokens_since_mark = time.perf_counter(), 0
        self.saved_step = 0


def train(run: Run, state: RunState, interrupts: Interrupts) -> RunState:
    """Take the run from `state` to its end, or to where it is interrupted or stops early; saves before it returns.

    Raises:
        NonFiniteError: when a loss or gradient norm is NaN or infinite, naming the step. Nothing is saved after it.
        UserError: when the last checkpoint cannot be written.
    """
    config, started = run.config, time.perf_counter() - state.seconds
    run.saved_step = state.step
    run.mark = time.perf_counter()
    while state.step < config.max_steps and not stops_early(config, state) and not interrupts.requested:
        step = state.step + 1
        batch, lr = run.batches.batch(step), run.learning_rate(step)
        run.unread.append((step, run.trainer.step(batch, lr)))
        state.step = step
        run.tokens_since_mark += batch.tokens
        if step == 1 or due(step, config.log_every):
            _log(run, step, lr, started)
        if step == 1 or step == config.max_steps or due(step, config.eval_every):
            _evaluate(run, state, started)
        state.seconds = time.perf_counter() - started
        if due(step, config.save_every):
            _try_to_save(run, state)
        run.log.step_done()
    if run.saved_step != state.step:
        try:
            _save(run, state)
        except (OSError, DamagedError) as error:
            raise UserError(f"step {state.step} could not be saved: {error}; {_kept(run)}") from None
    return state


def _check_finite(run: Run) -> None:
    """Read what the steps have left, and stop at the first that is not finite."""
    for step, metrics in run.unread:
        for name, value in metrics.items():
            if not math.isfinite(float(value)):
                raise NonFiniteError(f"step {step}: {name} is {float(value)}; {_kept(run)}")
    run.unread.clear()


def _log(run: Run, step: int, lr: float, started: float) -> None:
    metrics = run.unread[-1][1]
    _check_finite(run)
    now = time.perf_counter()
    loss = float(metrics["loss_nats"])
    values = {
        "loss_nats": loss,
        run.bits_name: loss / math.log(2),
        "lr": lr,
        "grad_norm": float(metrics["grad_norm"]),
        "tokens_per_second": run.tokens_since_mark / (now - run.mark),
        "seconds": now - started,
        **run.trainer.diagnostics(),
    }
    run.log.record("train", step, values)
    _restart_clock(run)


def _evaluate(run: Run, state: RunState, started: float) -> None:
    """Log the validation loss and keep the score for early stopping."""
    _check_finite(run)
    loss, config = float(run.trainer.evaluate(run.eval_batch)), run.config
    if not math.isfinite(loss):
        raise NonFiniteError(f"step {state.step}: validation loss is {loss}; {_kept(run)}")
    seconds = time.perf_counter() - started
    run.log.record("eval", state.step, {"loss_nats": loss, run.bits_name: loss / math.log(2), "seconds": seconds})
    if state.first_val_loss is None:
        state.first_val_loss = loss
    state.last_val_loss = loss
    if state.best_val_loss is None or loss < state.best_val_loss:
        state.best_val_loss, state.best_step = loss, state.step
    if state.gained_val_loss is None or loss < state.gained_val_loss - config.early_stop_min_delta:
        state.gained_val_loss, state.evals_without_gain = loss, 0
    elif state.step > config.early_stop_warmup:
        state.evals_without_gain += 1
    if stops_early(config, state):
        run.log.say(f"early stop at step {state.step}: {state.evals_without_gain} evaluations without a gain")
    _restart_clock(run)


def _restart_clock(run: Run) -> None:
    """Speed is that of training alone: what an evaluation or a save takes does not count."""
    run.mark, run.tokens_since_mark = time.perf_counter(), 0


def _try_to_save(run: Run, state: RunState) -> None:
    """Save; a disk that fails is reported, and training goes on with the older checkpoint as it was."""
    try:
        _save(run, state)
    except (OSError, DamagedError) as error:
        run.log.say(f"step {state.step}: not saved ({error}); training goes on")
    _restart_clock(run)


def _save(run: Run, state: RunState) -> None:
    _check_finite(run)
    weights = run.trainer.weights()
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"step {state.step}: {name} is not finite; {_kept(run)}")
    facts = {**run.facts, "step": state.step, "state": asdict(state)}
    run.checkpoints.save(weights, run.trainer.optimizer_state(), facts)
    run.saved_step = state.step


def _kept(run: Run) -> str:
    """What there is to go back to."""
    return f"the checkpoint of step {run.saved_step} is kept" if run.saved_step else "nothing had been saved before"
