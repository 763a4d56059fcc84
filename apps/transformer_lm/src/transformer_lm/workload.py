"""Translation of the flags: model, optimizer, schedule, batches. Mistakes show here, before any model is built.

Flags, Corpus --plan--> Plan --resumed--> Plan of a resumed run
"""

from collections.abc import Sequence
from pathlib import Path

from lm_core.config import AdamWConfig, LoopConfig, ModelConfig, SamplingConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import SequentialWindows, ShuffledWindows
from lm_core.errors import UserError
from lm_core.run.about import command_line, resume_line
from lm_core.run.plan import Plan
from lm_core.run.resume import Recorded
from lm_pipeline.tokens.named import Corpus
from lm_pipeline.training import bytes_of_targets, next_steps, sample_of
from lm_tokenizer.errors import TokenizerError
from transformer_lm.flags import Flags
from transformer_lm.resume_policy import ADVICE, POLICY

COMMAND = "uv run apps/transformer_lm"
_EVAL_TOKENS = 2048
"""Least size of a validation batch, which has no gradients to hold."""


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
    device = "gpu" if flags.gpu else "cpu"
    return StepConfig.of(flags, device=device, gradient_checkpointing=flags.checkpoint)


def schedule_of(flags: Flags) -> ScheduleConfig:
    """The learning rate over the run."""
    return ScheduleConfig(peak_lr=flags.learning_rate, warmup_steps=flags.lr_warmup)


def plan(flags: Flags, corpus: Corpus, save_dir: Path, argv: Sequence[str] = ()) -> Plan:
    """Decide a run in a save folder; `argv` is what was typed, for the report.

    Raises:
        UserError: when flags contradict each other or the dataset, saying which.
    """
    length, tokenizer, training = flags.context_size, corpus.tokenizer, corpus.splits["train"]
    for split, file in corpus.splits.items():
        if len(file) <= length:
            raise UserError(
                f"--context_size {length} is longer than the {split} split of {flags.dataset}, which has {len(file):,}"
                " tokens"
            )
    rows = max(flags.batch_size, _EVAL_TOKENS // length)
    validation, test = (
        SequentialWindows(corpus.splits[split].tokens, rows, length) for split in ("validation", "test")
    )
    of_words = tokenizer.name == "words"  # a token is a word then, and perplexity that of a word
    model = model_of(flags, tokenizer.vocab_size)
    return Plan(
        config=flags.absolute,
        policy=POLICY,
        command=command_line(COMMAND, argv),
        resume_command=resume_line(COMMAND, save_dir),
        backend=flags.backend,
        seed=flags.seed,
        model=model,
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
        keep=flags.keep,
        batches=ShuffledWindows(training.tokens, flags.batch_size, length, flags.seed),
        evaluation=validation,
        test=test if flags.eval_test else (),
        data=f"{flags.dataset}, {len(training):,} training tokens",
        training_tokens=len(training),
        metadata={"data": {"name": flags.dataset, "text": corpus.text}},
        content={"data_dir": "data.text"},
        tokenizer=tokenizer,
        bytes_of=None if of_words else bytes_of_targets(tokenizer),
        perplexity=of_words,
        sample=sample_of(
            tokenizer,
            length,
            _line_end(corpus),
            flags.sample_tokens,
            lambda step: flags.seed + step,
            sampling=SamplingConfig(top_k=flags.top_k, temperature=flags.temperature),
            at_saves=True,
        ),
        knobs={
            "batch_size": "--batch_size",
            "gradient_checkpointing": "--checkpoint",
            "seq_len": "--context_size",
            "d_model": "--dim",
        },
        next_steps=next_steps(model, tokenizer),
    )


def _line_end(corpus: Corpus) -> list[int]:
    """The ids of a line's end: what stands before most lines; of a text without lines, how it begins."""
    try:
        ids = [int(i) for i in corpus.tokenizer.encode("\n")]
    except TokenizerError:
        ids = []
    return ids or [int(corpus.splits["train"].tokens[0])]


def resumed(made: Plan, known: Recorded[Flags]) -> Plan:
    """The plan of a run that is resumed.

    Raises:
        UserError: when a flag differs that must not.
    """
    metadata, size = known.checkpoint.metadata if known.checkpoint else {}, known.before.batch_size
    if "config" not in metadata:  # older checkpoints have the batch size, and not the flags
        size = metadata.get("batches", {}).get("batch_size", size)
    return made.resumed(known, schedule_of, advice=ADVICE, batch_size=size)
