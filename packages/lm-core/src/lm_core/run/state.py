"""State of the training loop besides the trainer's."""

import math
from dataclasses import dataclass
from typing import Any, Self, get_type_hints

from lm_core.config import LoopConfig
from lm_core.errors import UserError

_SHOWN = 40
"""Letters of a value in a message."""
_LEAST_GAIN = 0.95
"""Part of the loss of a guess above which a model has learned nothing: frequencies alone take it lower."""
RISEN = 1.02
"""How much above the best loss the last one shows that it rises."""


@dataclass
class RunState:
    """State of the loop besides the trainer's; stored in the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    first_val_loss: float | None = None
    last_val_loss: float | None = None
    last_val_step: int = 0
    best_val_loss: float | None = None
    gained_val_loss: float | None = None
    best_step: int = 0
    evals_without_gain: int = 0

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Self:
        """The state in a checkpoint's metadata.

        Raises:
            UserError: when it has other fields, as one of another version of this project may, or of other types.
        """
        try:
            state = cls(**metadata["state"])
        except (LookupError, TypeError):
            raise UserError(
                f"the checkpoint of step {metadata.get('step')} has not the state that this version of the project"
                " resumes from: use the version that saved it"
            ) from None
        for name, kind in get_type_hints(cls).items():
            value = getattr(state, name)
            whole = type(value) is int and kind is not int  # JSON has one kind of number
            if type(value) is bool or not (whole or isinstance(value, kind)):
                raise UserError(
                    f"the checkpoint of step {metadata.get('step')} is damaged: the {name} of its state is"
                    f" {str(value)[:_SHOWN]!r}; resume from another"
                )
        return state

    @property
    def val_loss(self) -> float | None:
        """The validation loss of this very step, if it was measured."""
        return self.last_val_loss if self.last_val_step == self.step else None

    @property
    def is_best(self) -> bool:
        """Whether this very step has the lowest validation loss so far."""
        return self.best_val_loss is not None and self.best_step == self.step

    def evaluated(self, loss: float, config: LoopConfig) -> None:
        """Keep the score of the best loss and of early stopping."""
        if self.first_val_loss is None:
            self.first_val_loss = loss
        self.last_val_loss, self.last_val_step = loss, self.step
        if self.best_val_loss is None or loss < self.best_val_loss:
            self.best_val_loss, self.best_step = loss, self.step
        if self.gained_val_loss is None or loss < self.gained_val_loss - config.early_stop_min_delta:
            self.gained_val_loss, self.evals_without_gain = loss, 0
        elif self.step > config.early_stop_warmup:
            self.evals_without_gain += 1


def stops_early(config: LoopConfig, state: RunState) -> bool:
    """Whether patience has run out. It is the config's, so a resumed run may be given more."""
    return 0 < config.early_stop_patience <= state.evals_without_gain


def verdict(state: RunState, vocab_size: int) -> str | None:
    """What is wrong with a run by its validation losses, and what to do; None where nothing is, or none was measured.

    Args:
        state: at the end of the run.
        vocab_size: of the model; a guess among so many tokens has the loss ln(vocab_size).
    """
    if state.best_val_loss is None or state.last_val_loss is None:
        return None
    guess = math.log(vocab_size)
    if state.best_val_loss > _LEAST_GAIN * guess:
        return (
            f"the model has hardly learned yet (a guess among {vocab_size:,} tokens has {guess:.2f} nats): train"
            " longer, or try a learning rate 3 times higher, or lower if the loss jumps"
        )
    if state.last_val_loss > RISEN * state.best_val_loss:
        return (
            f"the validation loss rose after step {state.best_step:,}: from there on the model learned its text by"
            " heart; fewer steps, more text, more dropout or a smaller model help"
        )
    return None


def is_complete(config: LoopConfig, state: RunState) -> bool:
    """Whether there is no step left to take."""
    return state.step >= config.max_steps or stops_early(config, state)
