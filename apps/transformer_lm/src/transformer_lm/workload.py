"""What the flags mean: model, optimizer, schedule, batches. Mistakes show here, before any model is built."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch, SequentialWindows, ShuffledWindows
from lm_core.data.datasets import Split
from lm_core.errors import UserError
from lm_core.model.memory import Memory, training_memory
from lm_core.model.parameters import check_fit, parameter_table
from lm_core.optim import state_shapes
from lm_core.run.checkpoint import Checkpoint
from lm_core.run.evaluation import BytesOf
from lm_core.run.state import LoopConfig
from lm_core.schedules import ScheduleConfig
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.errors import TokenizerError
from transformer_lm.corpus import Corpus
from transformer_lm.flags import SHAPE, Flags

_EVAL_TOKENS = 2048
"""Least size of a validation batch, which has no gradients to hold."""


@dataclass(frozen=True)
class Workload:
    """One run, decided to the last detail."""

    flags: Flags
    corpus: Corpus
    model: ModelConfig
    optimizer: AdamWConfig
    step: StepConfig
    schedule: ScheduleConfig
    loop: LoopConfig
    batches: ShuffledWindows
    evaluation: dict[Split, SequentialWindows]
    """Validation and test."""
    prompt: list[int]
    """What samples go on from: the end of a line."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """That of the corpus."""
        return self.corpus.tokenizer

    @property
    def of_words(self) -> bool:
        """Whether a token is a word, so that perplexity is that of a word."""
        return self.tokenizer.name == "words"

    @property
    def memory(self) -> Memory:
        """The least that training needs."""
        return training_memory(self.model, self.optimizer, self.step, self.flags.batch_size, self.model.seq_len)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the run. Where it stands in the data follows from `batches` and its step."""
        return {
            "model": self.model.model_dump(mode="json"),
            "optimizer": self.optimizer.model_dump(mode="json"),
            "tokenizer": {"kind": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "data": {"name": self.flags.dataset, "text": self.corpus.text},
            "batches": {"seed": self.flags.seed, "batch_size": self.flags.batch_size, "seq_len": self.model.seq_len},
        }

    def bytes_of(self) -> BytesOf | None:
        """How many bytes of text the targets of a batch stand for; of words nobody asks."""
        if self.of_words:
            return None
        lengths = np.array(self.tokenizer.byte_lengths)
        lengths[list(self.tokenizer.special_tokens.values())] = 0

        def count(batch: Batch) -> int:
            return int(lengths[batch.targets].sum())

        return count


def model_of(flags: Flags, vocab_size: int) -> ModelConfig:
    """The shape of the model.

    Raises:
        UserError: when the heads do not divide the width.
    """
    if flags.dim % flags.num_heads:
        raise UserError(f"--num_heads {flags.num_heads} does not divide --dim {flags.dim}")
    return ModelConfig(
        vocab_size=vocab_size,
        seq_len=flags.context_size,
        d_model=flags.dim,
        n_layers=flags.num_blocks,
        n_heads=flags.num_heads,
        dropout=flags.dropout,
    )


def step_of(flags: Flags) -> StepConfig:
    """How the backend executes it."""
    return StepConfig(
        dtype=flags.dtype,
        compile=flags.compile,
        device="gpu" if flags.gpu else "cpu",
        gradient_checkpointing=flags.checkpoint,
    )


def plan(flags: Flags, corpus: Corpus) -> Workload:
    """Decide a run.

    Raises:
        UserError: when flags contradict each other or the dataset, saying which.
    """
    length = flags.context_size
    for split, file in corpus.splits.items():
        if len(file) <= length:
            raise UserError(
                f"--context_size {length} is longer than the {split} split of {flags.dataset}, which has {len(file):,}"
                " tokens"
            )
    rows = max(flags.batch_size, _EVAL_TOKENS // length)
    evaluation: dict[Split, SequentialWindows] = {
        split: SequentialWindows(corpus.splits[split].tokens, rows, length) for split in ("validation", "test")
    }
    return Workload(
        flags=flags,
        corpus=corpus,
        model=model_of(flags, corpus.tokenizer.vocab_size),
        optimizer=AdamWConfig(weight_decay=flags.weight_decay),
        step=step_of(flags),
        schedule=ScheduleConfig(peak_lr=flags.learning_rate, warmup_steps=flags.lr_warmup),
        loop=LoopConfig(
            max_steps=flags.num_iters,
            log_every=flags.steps_per_report,
            eval_every=flags.steps_per_eval,
            eval_ends=False,  # a few iterations on a laptop are not to take minutes
            save_every=flags.steps_per_save,
        ),
        batches=ShuffledWindows(corpus.splits["train"].tokens, flags.batch_size, length, flags.seed),
        evaluation=evaluation,
        prompt=_line_end(corpus),
    )


def _line_end(corpus: Corpus) -> list[int]:
    """The ids of a line's end: what stands before most lines; of a text without lines, how it begins."""
    try:
        ids = [int(i) for i in corpus.tokenizer.encode("\n")]
    except TokenizerError:
        ids = []
    return ids or [int(corpus.splits["train"].tokens[0])]


def check_same_model(flags: Flags, of_run: Flags, what: str) -> None:
    """What is gone on with must be the model that the flags describe.

    Raises:
        UserError: saying which flags differ.
    """
    different = [
        f"--{name} {getattr(of_run, name) or 'none'}, not {getattr(flags, name) or 'none'}"
        for name in SHAPE
        if getattr(flags, name) != getattr(of_run, name)
    ]
    if different:
        raise UserError(
            f"{what} has {' and '.join(different)}: leave these flags out, or give --new_model to begin another"
        )


def check_weights(model: ModelConfig, checkpoint: Checkpoint, what: str) -> None:
    """A checkpoint must hold the model's weights, whatever config.toml says.

    Raises:
        UserError: when it does not.
    """
    theirs, ours = checkpoint.facts.get("model") or {}, model.model_dump(mode="json")
    different = [key for key in ours if key != "dropout" and theirs.get(key) != ours[key]]
    if different:
        said = ", ".join(f"{key} {theirs.get(key)} and not {ours[key]}" for key in different)
        raise UserError(f"{what} is of another model than its config.toml says: {said}")
    try:
        check_fit(parameter_table(model), checkpoint.weights)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def check_checkpoint(checkpoint: Checkpoint, workload: Workload, what: str) -> None:
    """A checkpoint must hold the weights and the optimizer's state of a run.

    Raises:
        UserError: when it does not.
    """
    check_weights(workload.model, checkpoint, what)
    expected = state_shapes(workload.optimizer, parameter_table(workload.model))
    if {name: array.shape for name, array in checkpoint.optimizer_state.items()} != expected:
        raise UserError(f"{what} does not hold the state of AdamW for this model")
