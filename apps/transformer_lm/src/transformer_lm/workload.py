"""What the flags mean: model, optimizer, schedule, batches. Mistakes show here, before any model is built."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lm_core.config import AdamWConfig, LoopConfig, ModelConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import Batch, Origin, SequentialWindows, ShuffledWindows
from lm_core.errors import UserError
from lm_core.model.memory import Memory, training_memory
from lm_core.model.parameters import check_fit, parameter_table
from lm_core.optim import state_shapes
from lm_core.run.checkpoint import Checkpoint
from lm_core.run.evaluation import BytesOf
from lm_core.run.resume import History, changes_of, rate_change, values_of
from lm_pipeline.text.named import Split
from lm_pipeline.tokens.named import Corpus
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.errors import TokenizerError
from transformer_lm.flags import Flags
from transformer_lm.resume_policy import POLICY

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
    history: History = field(default_factory=History)
    """What was changed of the run when it went on."""

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
        """What a checkpoint says of the run. Its place in the data follows from its step, `batches` and `origin`."""
        return {
            "model": self.model.model_dump(mode="json"),
            "optimizer": self.optimizer.model_dump(mode="json"),
            "tokenizer": {"kind": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "data": {"name": self.flags.dataset, "text": self.corpus.text},
            "batches": {"seed": self.flags.seed, "batch_size": self.flags.batch_size, "seq_len": self.model.seq_len},
            "origin": asdict(self.batches.origin),
            "config": self.flags.of_run.model_dump(mode="json"),
            "history": self.history.facts,
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


def schedule_of(flags: Flags) -> ScheduleConfig:
    """The learning rate over the run."""
    return ScheduleConfig(peak_lr=flags.learning_rate, warmup_steps=flags.lr_warmup)


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
        schedule=schedule_of(flags),
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


def check_same(flags: Flags, of_run: Flags, what: str, keys: Sequence[str]) -> None:
    """What is gone on with must be what the flags describe, in these keys.

    Raises:
        UserError: saying which flags differ.
    """
    different = [
        f"--{name} {_or_none(getattr(of_run, name))}, not {_or_none(getattr(flags, name))}"
        for name in keys
        if getattr(flags, name) != getattr(of_run, name)
    ]
    if different:
        raise UserError(
            f"{what} has {' and '.join(different)}: leave these flags out, or give --new_model to begin another"
        )


def _or_none(value: object) -> object:
    return "none" if value == "" else value


def resumed(workload: Workload, checkpoint: Checkpoint, before: Flags) -> tuple[Workload, list[str]]:
    """The workload of a run that goes on from a checkpoint, and what there is to say of what has changed.

    Args:
        workload: that of the flags.
        checkpoint: what it goes on from.
        before: the flags that the checkpoint was saved with.
    """
    facts, flags, text = checkpoint.facts, workload.flags, workload.corpus.text
    known = facts["data"]["text"]
    claims = {**values_of(before.of_run), "data_dir": str(known)[:12]}
    now = {**values_of(flags.of_run), "data_dir": text[:12]}
    history = changes_of(POLICY, claims, now, facts, "give --new_model to begin another")
    # The checkpoints of before have the batch size, and not the flags.
    size = before.batch_size if "config" in facts else facts.get("batches", {}).get("batch_size", before.batch_size)
    per_epoch = workload.batches.per_epoch if known != text else None
    origin = Origin(**facts.get("origin", {})).moved(checkpoint.step, size, flags.batch_size, per_epoch)
    notes = [f"note: {flags.dataset} is another text than the one that this run began with"] * (known != text)
    rate = rate_change(schedule_of(before), workload.schedule, checkpoint.step, flags.num_iters)
    notes += [*history.lines(), *([rate] if rate else [])]
    return replace(workload, batches=replace(workload.batches, origin=origin), history=history), notes


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
