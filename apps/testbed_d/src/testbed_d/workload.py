"""Translation of the flags: text, model, optimizer, schedule, batches. Mistakes show here, before any model is built.

Flags -> text -> tokenizer -> ids -> (train, validation) -> batches -> Plan
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lm_core.backend import default_backend
from lm_core.config import (
    AdamWConfig,
    DecayGroup,
    KBetaConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    StepConfig,
    parse_piecewise,
)
from lm_core.data.batches import Batches, Bursts, Ids, LengthRule, RandomWindows, frozen_batch
from lm_core.errors import UserError
from lm_core.run.about import command_line, resume_line
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan
from lm_pipeline.text.one_file import read_text, split, standard_library_text
from lm_pipeline.training import next_steps, sample_of
from lm_tokenizer.adapters import TextTokenizer, train_tokenizer
from testbed_d.flags import Flags
from testbed_d.resume_policy import POLICY

COMMAND = "uv run apps/testbed_d"
EVAL_LENGTH = 256
KBETA_BETA2_MAX = 0.999


def plan(flags: Flags, folder: RunFolder, argv: Sequence[str] = ()) -> Plan:
    """Decide a run in a folder; `argv` is what was typed, for the report.

    Raises:
        UserError: when flags contradict each other or the text, saying which.
    """
    _check(flags)
    schedule = schedule_of(flags)
    text = read_text(flags.text) if flags.text else standard_library_text()
    foreign = read_text(flags.burst_text) if flags.burst_text else ""
    corpus = _corpus(text, foreign, flags.val_frac)
    tokenizer, train, validation = corpus.tokenizer, corpus.train, corpus.validation
    eval_length, lengths = min(EVAL_LENGTH, flags.ctx), _lengths(flags)
    for name, part, need in (("training", train, lengths.largest + 1), ("validation", validation, eval_length + 1)):
        if len(part) < need:
            raise UserError(
                f"text {flags.text or 'of the standard library'} is too short: its {name} part has {len(part)}"
                f" characters, a window needs {need}; give a longer text or a smaller ctx and lmax"
            )
    if flags.burst_text and len(foreign) < lengths.largest + 1:
        raise UserError(
            f"--burst_text {flags.burst_text} is too short: a window needs {lengths.largest + 1} characters, and it has"
            f" {len(foreign):,}"
        )
    model = _model(flags, tokenizer.vocab_size)
    prompt = "\n" if "\n" in text else train[0]
    return Plan(
        config=flags.model_copy(update={key: _absolute(getattr(flags, key)) for key in ("text", "burst_text")}),
        policy=POLICY,
        command=command_line(COMMAND, argv),
        resume_command=resume_line(COMMAND, folder.path, "--resume"),
        backend=flags.backend,
        seed=flags.seed,
        model=model,
        optimizer=_optimizer(flags),
        step=StepConfig.of(
            flags,
            # MLX promises it on the CPU alone; what else --deterministic means holds there too.
            deterministic=flags.deterministic and _backend(flags) == "torch",
            varying_length=lengths.shortest < lengths.longest,
            device=flags.device,
            barrier_every=flags.barrier_every,
        ),
        schedule=schedule,
        loop=LoopConfig(
            max_steps=flags.steps,
            log_every=flags.log_every,
            eval_every=flags.eval_every,
            save_every=flags.save_every,
            early_stop_patience=flags.early_stop_patience,
            early_stop_min_delta=flags.early_stop_min_delta,
            early_stop_warmup=flags.early_stop_warmup,
        ),
        batches=_batches(flags, corpus, foreign),
        evaluation=[frozen_batch(corpus.validation_ids, flags.eval_bs, eval_length, flags.fixed_eval_seed)],
        data=f"{Path(flags.text).name if flags.text else 'standard library'}, {len(text):,} characters",
        training_tokens=len(train),
        metadata=corpus.hashes,
        content={key: key for key in corpus.hashes},
        tokenizer=tokenizer,
        notes=_notes(flags, len(text)),
        bits_name="bits_per_char",
        sample=sample_of(
            tokenizer, flags.ctx, tokenizer.encode(prompt), flags.sample, lambda _: flags.seed, text=prompt
        ),
        knobs={"batch_size": "--batch", "seq_len": "--lmax", "d_model": "--d_model"},
        next_steps=next_steps(model, tokenizer),
    )


def _check(flags: Flags) -> None:
    if flags.d_model % flags.n_head:
        raise UserError(f"--n_head {flags.n_head} does not divide --d_model {flags.d_model}")
    if flags.hidden_warmup and flags.opt == "kbeta":
        raise UserError(
            "--hidden_warmup is for --opt adam: K-beta has it from --kbeta_bias_correction beta2max, and does without"
            " by exact"
        )
    if flags.hidden_beta2 and not flags.hidden_warmup:
        raise UserError("--hidden_beta2 without --hidden_warmup has no effect")
    if flags.hidden_warmup and _hidden_beta2(flags) >= KBETA_BETA2_MAX:
        raise UserError(
            f"--hidden_warmup of beta2 {_hidden_beta2(flags)} warms nothing up, its factor is never below 1: give"
            " --hidden_beta2 0.94, which K-beta's beta2 is near"
        )
    if flags.burst_text and not flags.burst_rate:
        raise UserError("--burst_text without --burst_rate has no effect: give a rate, such as 0.01")
    if flags.lmin > flags.lmax:
        raise UserError(f"--lmin {flags.lmin} is above --lmax {flags.lmax}")
    if flags.lmin > flags.ctx:
        raise UserError(f"--lmin {flags.lmin} is above --ctx {flags.ctx}")


def _notes(flags: Flags, characters: int) -> tuple[str, ...]:
    notes = []
    if not flags.text:
        notes.append(f"no --text given: training on {characters:,} characters of this Python's standard library")
    if flags.lmax > flags.ctx:
        notes.append(f"--lmax {flags.lmax} is above --ctx {flags.ctx}: windows are capped at {flags.ctx}")
    return tuple(notes)


@dataclass(frozen=True)
class _Corpus:
    """The parts of a text, as characters and as ids."""

    tokenizer: TextTokenizer
    train: str
    validation: str
    train_ids: Ids
    validation_ids: Ids
    hashes: Mapping[str, str]
    """Flag -> SHA-1 of its text."""


@lru_cache(maxsize=1)
def _corpus(text: str, foreign: str, val_frac: float) -> _Corpus:
    """What the texts come to; kept, because a process of a study makes many runs of one text."""
    tokenizer = train_tokenizer("characters", [text, foreign])
    train, validation = split(text, val_frac)
    texts = {"text": text, **({"burst_text": foreign} if foreign else {})}
    hashes = {flag: hashlib.sha1(content.encode()).hexdigest() for flag, content in texts.items()}
    ids = tokenizer.encode_array(train), tokenizer.encode_array(validation)
    return _Corpus(tokenizer, train, validation, *ids, hashes)


def _batches(flags: Flags, corpus: _Corpus, foreign: str) -> Batches:
    usual = RandomWindows(corpus.train_ids, flags.batch, _lengths(flags), flags.seed)
    if not flags.burst_rate:
        return usual
    other = corpus.tokenizer.encode_array(foreign or _alphabet_reversed(corpus.train))
    return Bursts(usual, other, flags.burst_rate, flags.burst_length)


def _alphabet_reversed(text: str) -> str:
    """The text with its first character in code-point order for its last one, its second for the last but one, ..."""
    alphabet = sorted(set(text))
    return text.translate(dict(zip(map(ord, alphabet), reversed(alphabet), strict=True)))


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else ""


def _lengths(flags: Flags) -> LengthRule:
    longest = min(flags.lmax, flags.ctx)
    if flags.deterministic:
        return LengthRule(longest, longest)
    return LengthRule(flags.lmin, longest, flags.len_bucket, flags.ctx)


def _model(flags: Flags, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        seq_len=flags.ctx,
        d_model=flags.d_model,
        n_layers=flags.n_layer,
        n_heads=flags.n_head,
        norm="layer",
        mlp="gelu_tanh",
        positions="learned",
        bias=True,
        head_bias=True,
    )


def _backend(flags: Flags) -> str:
    return default_backend() if flags.backend == "auto" else flags.backend


def _optimizer(flags: Flags) -> OptimizerConfig:
    chosen: dict[DecayGroup, bool] = {
        "matrix": True,
        "bias": flags.wd_bias,
        "norm": flags.wd_norm,
        "embed": flags.wd_embed,
    }
    groups = tuple(group for group, decays in chosen.items() if decays)
    if flags.opt == "adam":
        return AdamWConfig(beta2=flags.adam_beta2, weight_decay=flags.wd, decay_groups=groups)
    return KBetaConfig(
        beta2_min=0.88,
        beta2_max=KBETA_BETA2_MAX,
        alpha=0.93,
        tiny_spike=1e-9,
        bias_correction=flags.kbeta_bias_correction,
        warmup_steps=flags.warmup,
        buckets="per-array" if flags.deterministic else flags.layer_bucket,
        weight_decay=flags.wd,
        decay_groups=groups,
    )


def schedule_of(flags: Flags) -> ScheduleConfig:
    """The learning rate over the run.

    Raises:
        UserError: when lr_schedule is malformed.
    """
    warmup = {"warmup_steps": flags.lr_warmup, "correction_warmup": _hidden_warmup(flags)}
    if not flags.lr_schedule:
        return ScheduleConfig.model_validate({"peak_lr": flags.lr, **warmup})
    return ScheduleConfig.model_validate({"kind": "piecewise", "points": parse_piecewise(flags.lr_schedule), **warmup})


def _hidden_warmup(flags: Flags) -> tuple[float, float] | None:
    return (KBETA_BETA2_MAX, _hidden_beta2(flags)) if flags.hidden_warmup else None


def _hidden_beta2(flags: Flags) -> float:
    return flags.hidden_beta2 or flags.adam_beta2
