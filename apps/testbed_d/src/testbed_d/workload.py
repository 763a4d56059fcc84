"""What the flags mean: text, model, optimizer, schedule, batches. Mistakes show here, before any model is built.

Flags -> text -> vocabulary -> ids -> (train, validation) -> batches
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from lm_core.data.batches import Batch, LengthRule, RandomWindows, frozen_batch
from lm_core.errors import UserError
from lm_core.model.memory import Memory, training_memory
from lm_core.run.folder import RunFolder, new_run, newest_run
from lm_core.terminal import say
from lm_pipeline.text.characters import CharVocabulary
from lm_pipeline.text.one_file import read_text, split, standard_library_text
from testbed_d.flags import Flags

EVAL_LENGTH = 256
FLAG_OF = {"seq_len": "ctx", "n_heads": "n_head", "n_layers": "n_layer"}
"""The flags whose names are not those of the model's config."""


@dataclass(frozen=True)
class Workload:
    """One run, decided to the last detail."""

    vocabulary: CharVocabulary
    model: ModelConfig
    optimizer: OptimizerConfig
    step: StepConfig
    schedule: ScheduleConfig
    loop: LoopConfig
    batches: RandomWindows
    eval_batch: Batch
    prompt: str
    text_sha1: str
    """Tells whether a run is resumed on the text it began with."""
    data: str
    """The text, in words."""
    notes: tuple[str, ...]
    """What the user should know before the run starts."""

    @property
    def memory(self) -> Memory:
        """The least that training needs, at the shortest windows that there may be."""
        rows, length = self.batches.batch_size, self.batches.lengths.shortest
        return training_memory(self.model, self.optimizer, self.step, rows, length)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        return {
            "model": self.model.model_dump(mode="json"),
            "optimizer": self.optimizer.model_dump(mode="json"),
            "vocabulary": self.vocabulary.characters,
            "text": self.text_sha1,
        }


def plan(flags: Flags) -> Workload:
    """Decide a run.

    Raises:
        UserError: when flags contradict each other or the text, saying which.
    """
    _check(flags)
    schedule = schedule_of(flags)
    text = read_text(flags.text) if flags.text else standard_library_text()
    vocabulary = CharVocabulary.of(text)
    train, validation = split(text, flags.val_frac)
    eval_length = min(EVAL_LENGTH, flags.ctx)
    lengths = _lengths(flags)
    for name, part, need in (("training", train, lengths.largest + 1), ("validation", validation, eval_length + 1)):
        if len(part) < need:
            raise UserError(
                f"text {flags.text or 'of the standard library'} is too short: its {name} part has {len(part)}"
                f" characters, a window needs {need}; give a longer text or a smaller ctx and lmax"
            )
    return Workload(
        vocabulary=vocabulary,
        model=_model(flags, len(vocabulary)),
        optimizer=_optimizer(flags),
        step=StepConfig(
            dtype=flags.dtype,
            compile=flags.compile,
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
        batches=RandomWindows(vocabulary.encode(train), flags.batch, lengths, flags.seed),
        eval_batch=frozen_batch(vocabulary.encode(validation), flags.eval_bs, eval_length, flags.fixed_eval_seed),
        prompt="\n" if "\n" in vocabulary.characters else train[0],
        text_sha1=hashlib.sha1(text.encode()).hexdigest(),
        data=f"{Path(flags.text).name if flags.text else 'standard library'}, {len(text):,} characters",
        notes=_notes(flags, len(text)),
    )


def _check(flags: Flags) -> None:
    if flags.d_model % flags.n_head:
        raise UserError(f"--n_head {flags.n_head} does not divide --d_model {flags.d_model}")
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
    if not flags.lr_schedule:
        return ScheduleConfig(peak_lr=flags.lr, warmup_steps=flags.lr_warmup)
    points = parse_piecewise(flags.lr_schedule)
    return ScheduleConfig(kind="piecewise", points=points, warmup_steps=flags.lr_warmup)


def run_folder(flags: Flags, root: Path, now: str) -> RunFolder:
    """The run folder: the one given, the newest under `root` to resume, or a new one named by the time.

    Raises:
        UserError: when there is nothing to resume.
    """
    if flags.save_dir:
        return RunFolder(Path(flags.save_dir))
    if not flags.resume:
        return new_run(root, now)
    newest = newest_run(root, say)
    if newest is None:
        raise UserError(f"--resume: there is no run under {root}; name one with --save_dir")
    return newest
