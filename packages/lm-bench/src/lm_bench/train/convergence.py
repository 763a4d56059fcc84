"""Does it learn as well? Ours and the plain loop on a text's characters, as nanoGPT trains them on a CPU.

text -> characters -> (train, last tenth for validation) -> N steps of either side, same batches -> validation loss

nanoGPT's README gives 1.88 for tinyshakespeare after 2,000 steps. Its estimate is over 20 random batches; here it is
over every window of the validation text, side by side, which has no chance in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lm_bench.cases import SEED, Case
from lm_bench.flags import TrainFlags
from lm_bench.train.sides import Side, SideName, make_side, step_config
from lm_bench.train.workload import workload
from lm_core.config import ScheduleConfig
from lm_core.data.batches import Batch, LengthRule, RandomWindows, windows
from lm_core.errors import UserError
from lm_core.schedules import learning_rate
from lm_pipeline.text.one_file import read_text, split
from lm_tokenizer.adapters import train_tokenizer

VALIDATION_PART = 0.1
VALIDATION_ROWS = 64
MIN_LR_PART = 0.1
WARMUP_PART = 1 / 20
"""100 of nanoGPT's 2,000 steps."""


@dataclass(frozen=True)
class Convergence:
    """Where one side got."""

    side: str
    iterations: int
    train_loss: float
    """Of the last step's batch, in nats."""
    val_loss: float
    """Over the whole validation text, in nats per character."""


@dataclass(frozen=True)
class Text:
    """A text as ids, and the case that learns it."""

    case: Case
    train: NDArray[np.integer]
    validation: NDArray[np.integer]

    def validation_batches(self) -> Iterator[Batch]:
        """Every window of the validation text, side by side."""
        starts = np.arange(0, len(self.validation) - self.case.length, self.case.length)
        for first in range(0, len(starts), VALIDATION_ROWS):
            yield windows(self.validation, starts[first : first + VALIDATION_ROWS], self.case.length)


def read(path: str, device: str) -> Text:
    """A text file's characters, to be learned by `nanogpt-char`.

    Raises:
        UserError: when no file is named, or it cannot be read, or is too short.
    """
    if not path:
        raise UserError("convergence needs a text: --text FILE")
    text = read_text(path)
    tokenizer = train_tokenizer("characters", [text])
    train, validation = (tokenizer.encode_array(part) for part in split(text, VALIDATION_PART))
    case = workload("nanogpt-char", device)
    if len(validation) <= case.length:
        raise UserError(f"text {path} is too short: its last tenth has {len(validation)} characters")
    model = case.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
    return Text(replace(case, model=model), train, validation)


def schedule(case: Case, iterations: int) -> ScheduleConfig:
    """nanoGPT's: warm-up, then a cosine down to a tenth."""
    warmup = int(iterations * WARMUP_PART)
    return ScheduleConfig(
        kind="cosine", peak_lr=case.lr, warmup_steps=warmup, max_steps=iterations, min_factor=MIN_LR_PART
    )


def train(name: SideName, side: Side, text: Text, iterations: int) -> Convergence:
    """Train one side, then read the whole validation text with it."""
    case = text.case
    batches = RandomWindows(text.train, case.batch_size, LengthRule(case.length, case.length), SEED)
    rates = schedule(case, iterations)
    for step in range(1, iterations + 1):
        loss = side.step(batches.batch(step), learning_rate(rates, step))
    total, tokens = 0.0, 0
    for batch in text.validation_batches():
        total += float(side.evaluate(batch)) * batch.tokens
        tokens += batch.tokens
    return Convergence(str(name), iterations, float(loss), total / tokens)


def measure(text: Text, names: list[SideName], flags: TrainFlags, say: Callable[[str], None]) -> list[Convergence]:
    """Train ours and every plain loop among `names`."""
    results = []
    for name in names:
        if name.who in ("ours", "plain"):
            say(f"convergence: {name}, {flags.iterations} steps ...")
            config = step_config(name.dtype, flags.compile, flags.device)
            side = make_side(name.who, text.case, config, flags.backend)
            results.append(train(name, side, text, flags.iterations))
    return results
