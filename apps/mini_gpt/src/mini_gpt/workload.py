"""Translation of the flags: text, tokenizer, model, optimizer, schedule, batches. Mistakes show here.

Flags -> documents -> tokenizer -> ids -> (train, validation) -> batches -> Plan
"""

from collections.abc import Sequence
from pathlib import Path

from lm_core.config import AdamWConfig, LoopConfig, ModelConfig, ScheduleConfig, StepConfig
from lm_core.data.batches import SequentialWindows, ShuffledWindows
from lm_core.errors import UserError
from lm_core.run.about import command_line, resume_line
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_core.terminal import say
from lm_pipeline.text.own_text import OwnText, read_own_text
from lm_pipeline.tokens.in_memory import encode_documents, learn_tokenizer
from lm_pipeline.tokens.tokenizers import tokenizer_in
from lm_pipeline.training import bytes_of_targets, next_steps, sample_of
from lm_tokenizer.adapters import TextTokenizer
from mini_gpt.flags import Flags
from mini_gpt.resume_policy import POLICY

COMMAND, SAMPLE_COMMAND = "uv run apps/mini_gpt/train_bpe.py", "uv run apps/mini_gpt/sample_bpe.py"

KNOBS = {
    "micro_batch_size": "--batch_size",
    "grad_accum_steps": "--grad_accum_steps",
    "gradient_checkpointing": "--gradient_checkpointing",
    "seq_len": "--block_size",
    "d_model": "--n_embed",
}


def plan(flags: Flags, folder: RunFolder, argv: Sequence[str] = ()) -> Plan:
    """Decide a run in a folder; `argv` is what was typed, for the report.

    Raises:
        UserError: when flags contradict each other or the text, saying which.
    """
    schedule = schedule_of(flags)
    if flags.n_embed % flags.n_head:
        raise UserError(f"--n_head {flags.n_head} does not divide --n_embed {flags.n_embed}")
    text = read_own_text(flags.data_file, flags.data_dir, flags.include)
    for note in text.notes:
        say(note)
    tokenizer = tokenizer_of(flags, text, folder)
    train, validation = (encode_documents(tokenizer, part) for part in (text.train, text.validation))
    if len(train) <= flags.block_size or len(validation) < 2:
        raise UserError(
            f"{text.name} is too short: {len(train):,} tokens to train on and {len(validation):,} to validate with,"
            f" where {flags.block_size + 1:,} and 2 are needed; give more text, or a smaller --block_size"
        )
    model = model_of(flags, tokenizer.vocab_size)
    size = sum(len(part.encode("utf-8", "surrogatepass")) for part in text.train)
    start = [tokenizer.eos_id] if len(text.train) > 1 and tokenizer.eos_id is not None else tokenizer.encode("\n")
    return Plan(
        config=flags.model_copy(update={name: _absolute(getattr(flags, name)) for name in ("data_file", "data_dir")}),
        policy=POLICY,
        command=command_line(COMMAND, argv),
        resume_command=resume_line(COMMAND, folder.path, "--resume"),
        backend=flags.backend,
        seed=flags.seed,
        model=model,
        optimizer=AdamWConfig(beta2=0.99, weight_decay=flags.weight_decay, grad_clip=1.0),
        step=StepConfig.of(
            flags,
            dtype="bfloat16" if flags.amp else flags.dtype,
            device=flags.device,
            grad_accum_steps=flags.grad_accum_steps,
            gradient_checkpointing=flags.gradient_checkpointing,
        ),
        schedule=schedule,
        loop=LoopConfig(
            max_steps=flags.max_steps,
            log_every=flags.log_every,
            eval_every=flags.eval_every,
            save_every=flags.save_every,
            save_best=True,
        ),
        batches=ShuffledWindows(train, flags.batch_size * flags.grad_accum_steps, flags.block_size, flags.seed),
        evaluation=SequentialWindows(validation, flags.batch_size, flags.block_size, flags.eval_tokens),
        data=f"{text.name}, {size:,} bytes to train on, {size / len(train):.2f} bytes per token",
        training_tokens=len(train),
        metadata={"text": text.sha1},
        content={"data_dir" if flags.data_dir else "data_file": "text"},
        tokenizer=tokenizer,
        bytes_of=bytes_of_targets(tokenizer),
        perplexity=True,
        sample=sample_of(
            tokenizer, flags.block_size, start, flags.sample, lambda step: flags.seed + step, at_saves=True
        ),
        knobs=KNOBS,
        next_steps=next_steps(model, tokenizer, f"{SAMPLE_COMMAND} --ckpt"),
    )


def tokenizer_of(flags: Flags, text: OwnText, folder: RunFolder) -> TextTokenizer:
    """The tokenizer of the run: that of its folder when it is resumed, else one learned from the training text."""
    there = tokenizer_in(folder.tokenizer) if flags.resume else None
    if there:
        return there
    say(f"learning a tokenizer ({flags.tokenizer}) from {text.name}")
    tokenizer = learn_tokenizer(flags.tokenizer, text.train, flags.vocab_size)
    if tokenizer.vocab_size < flags.vocab_size:
        say(f"--vocab_size {flags.vocab_size:,}: this text gives at most {tokenizer.vocab_size:,}, which are used")
    return tokenizer


def model_of(flags: Flags, vocab_size: int) -> ModelConfig:
    """The shape of GPT-2, in the size that the flags give."""
    return ModelConfig(
        vocab_size=vocab_size,
        seq_len=flags.block_size,
        d_model=flags.n_embed,
        n_layers=flags.n_layer,
        n_heads=flags.n_head,
        tie_embeddings=True,
        dropout=flags.dropout,
        depth_scaled_init=True,
    )


def schedule_of(flags: Flags) -> ScheduleConfig:
    """Learning-rate factor at step t, counted from 0: (t + 1) / W for t < W, and then 1, or with `use_cosine`
    m + 0.5 (1 - m) (1 + cos(pi (t - W) / (T - W))).

    The project counts steps from 1, so the cosine is one that starts at W + 1 and would end at T + 1.

    Raises:
        UserError: when the warm-up leaves no room for the cosine.
    """
    peak, warmup, steps = flags.base_lr, flags.warmup_steps, flags.max_steps
    if not flags.use_cosine:
        return ScheduleConfig(peak_lr=peak, warmup_steps=warmup)
    if warmup >= steps:
        raise UserError(f"--warmup_steps {warmup:,} leaves no room for --use_cosine in --max_steps {steps:,}")
    return ScheduleConfig(
        kind="hold_then_cosine",
        peak_lr=peak,
        warmup_steps=warmup,
        max_steps=steps + 1,
        decay_steps=steps - warmup,
        min_factor=flags.min_factor,
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if path else ""
