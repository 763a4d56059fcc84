"""Translation of a training config: tokenizer, token files, model, batches. Mistakes show before a framework is loaded.

config -> tokenizer -> token files -> batches -> Plan
       -> model shape, or that of init_from; of a resumed run, that of its checkpoint
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lm_core.config import ModelConfig
from lm_core.data.token_file import check_pair
from lm_core.errors import UserError
from lm_core.run.about import command_line, resume_line
from lm_core.run.checkpoint import Checkpoint
from lm_core.run.folder import RunFolder, run_folder
from lm_core.run.plan import Plan, Sinks
from lm_core.run.resume import Recorded
from lm_core.run.sinks.sink import Sink
from lm_core.run.sinks.tensorboard import TensorBoardSink
from lm_core.run.sinks.wandb import WandbSink
from lm_core.terminal import show
from lm_pipeline.commands.train_config import DataConfig, ShapeConfig, TrainConfig, absolute
from lm_pipeline.commands.train_data import Data, batches_of, evaluation_of, open_data, size_of
from lm_pipeline.commands.train_resume import POLICY, extended_config, resumed, schedule_of
from lm_pipeline.saved_model import ROOT, SavedModel, load_model, load_tokenizer_of
from lm_pipeline.training import bytes_of_targets, next_steps, sample_of
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer
from lm_tokenizer.errors import TokenizerError

KNOBS = {
    "batch_size": "training.batch_size",
    "grad_accum_steps": "step.grad_accum_steps",
    "gradient_checkpointing": "step.gradient_checkpointing",
    "seq_len": "model.seq_len",
    "d_model": "model.d_model",
}
_LONGEST_NAME = 200
"""Bytes; file systems take 255."""


@dataclass(frozen=True)
class Typed:
    """Commands that the user types: to train, by this or another name, and to sample what was trained."""

    program: str = "transformerlm-train"
    """Name in errors and in --help."""
    train: str = "uv run transformerlm-train"
    """Start of the command line that resumes the run."""
    sample: str = "uv run transformerlm-infer"


OWN = Typed()


def folder_of(config: TrainConfig) -> RunFolder:
    """Folder of the run, existing or new.

    Raises:
        UserError: when the run's name cannot be that of a folder, or there is none to resume.
    """
    name = config.logging.run_name
    if name and not (config.save_dir or config.resume):
        _check_name(name)
    return run_folder(config.save_dir, ROOT, resume=config.resume, name=name)


def _check_name(name: str) -> None:
    """The name of a run is that of a folder under the other runs, and nowhere else."""
    if name in (".", "..") or not set(name).isdisjoint("/\\\0") or len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise UserError(f"logging.run_name: {show(name)!r} cannot be the name of a folder in {ROOT}: give a plain name")


def plan_run(
    config: TrainConfig,
    folder: RunFolder,
    known: Recorded[TrainConfig] | None = None,
    argv: Sequence[str] = (),
    typed: Typed = OWN,
) -> Plan:
    """Decide a run in a folder, `known` where it is resumed; `typed` and `argv` are the command, for the report.

    Raises:
        UserError: when the config contradicts itself or what it names, saying which key; nothing has been written then.
    """
    check_values(config, known)
    checkpoint = known.checkpoint if known else None
    source = load_model(config.init_from, key="init_from") if config.init_from and not checkpoint else None
    config = extended_config(_in_steps(config, source.config if source else config.model), known)
    schedule = schedule_of(config)
    tokenizer = _tokenizer(config.data, folder, checkpoint, source)
    model = _model(config, tokenizer, source)
    train, validation = (open_data(config.data, split, tokenizer) for split in ("train", "validation"))
    check_pair(train, validation)
    prompt = _prompt(config.training.sample_prompt, tokenizer, validation)
    filled, name = _filled(config, folder, model), config.logging.dataset or Path(config.data.train).name
    tokens, about, notes = size_of(train, name)
    made = Plan(
        config=filled,
        policy=POLICY,
        command=command_line(typed.train, argv),
        resume_command=resume_line(typed.train, folder.path, "--resume"),
        backend=config.backend,
        seed=config.seed,
        model=model,
        optimizer=config.optimizer,
        step=config.step,
        schedule=schedule,
        loop=config.training,
        keep=config.training.keep,
        batches=batches_of(config, model, train, tokenizer.eos_id),
        evaluation=evaluation_of(config, model, validation, tokenizer.eos_id),
        data=about,
        training_tokens=tokens,
        notes=notes,
        metadata={"data": {"train": train.metadata.sha256, "validation": validation.metadata.sha256}},
        content={key: key for key in ("data.train", "data.validation")},
        tokenizer=tokenizer,
        weights=source.weights if source else None,
        bytes_of=bytes_of_targets(tokenizer),
        perplexity=True,
        sample=sample_of(
            tokenizer,
            model.seq_len,
            prompt,
            config.training.sample_tokens,
            lambda _: config.seed,
            text=config.training.sample_prompt,
        ),
        sinks=_sinks(filled, folder),
        console="console" in config.logging.backend,
        knobs=KNOBS,
        next_steps=next_steps(model, tokenizer, f"{typed.sample} --checkpoint"),
    )
    return resumed(made, known) if known else made


def check_values(config: TrainConfig, known: Recorded[TrainConfig] | None = None) -> None:
    """Check what can be without a tokenizer, data and weights.

    Raises:
        UserError: when keys contradict each other.
    """
    _check_logging(config)
    _check_batch(config)
    if not (known or config.init_from):  # else the shape and the schedule are not in the config alone
        schedule_of(_in_steps(config, config.model))


def _sinks(config: TrainConfig, run: RunFolder) -> Sinks:
    def opened(folder: Path, start: int) -> list[Sink]:
        sinks: list[Sink] = []
        if "tensorboard" in config.logging.backend:
            sinks.append(TensorBoardSink(folder, start))
        if "wandb" in config.logging.backend:
            name, wandb, kept = config.logging.run_name, config.wandb, POLICY.kept(config)
            sinks.append(WandbSink(folder, wandb.project, kept, wandb.entity or None, name, run.tokenizer))
        return sinks

    return opened


def _check_logging(config: TrainConfig) -> None:
    for name in config.logging.backend:
        spec = None if name == "console" else find_spec(name)
        if name != "console" and (spec is None or spec.origin is None):  # a folder of that name is not a package
            raise UserError(f"logging.backend: {name} is not installed: pip install {name}, or leave it out")


def _check_batch(config: TrainConfig) -> None:
    rows, parts = config.training.batch_size, config.step.grad_accum_steps
    if rows % parts:
        raise UserError(f"training.batch_size {rows} is not a multiple of step.grad_accum_steps {parts}")


def _in_steps(config: TrainConfig, shape: ModelConfig) -> TrainConfig:
    """The config with the steps that its budget of tokens is, in its place."""
    training, tokens = config.training, config.training.batch_size * shape.seq_len
    if not training.max_tokens:
        return config
    if training.max_tokens < tokens:
        raise UserError(
            f"training.max_tokens {training.max_tokens:,} is less than one batch: {training.batch_size:,} sequences of"
            f" {shape.seq_len:,} tokens are {tokens:,}: lower training.batch_size or model.seq_len, or raise max_tokens"
        )
    steps = {"max_steps": training.max_tokens // tokens, "max_tokens": 0}
    return config.model_copy(update={"training": training.model_copy(update=steps)})


def _tokenizer(
    data: DataConfig, folder: RunFolder, checkpoint: Checkpoint | None, source: SavedModel | None
) -> TextTokenizer:
    """The run's own, that of the config, or that of the model it begins with."""
    if checkpoint:
        return load_tokenizer_of(folder, checkpoint.metadata, "--resume")
    if data.tokenizer:
        try:
            return load_tokenizer(data.tokenizer)
        except TokenizerError as error:
            raise UserError(f"data.tokenizer: {error}") from None
    if source:
        return source.tokenizer
    raise UserError("data.tokenizer: name the tokenizer that the token files were made with")


def _model(config: TrainConfig, tokenizer: TextTokenizer, source: SavedModel | None) -> ModelConfig:
    """The shape, with a vocabulary that every id of the tokenizer is in."""
    size, multiple = tokenizer.vocab_size, config.data.pad_vocab_to
    if source:
        # These are not part of the weights: the config's count.
        kept = {"dropout": config.model.dropout, "init_std": config.model.init_std}
        model = source.config.model_copy(update=kept)
        if size > model.vocab_size:
            raise UserError(
                f"init_from: the model of {config.init_from} has {model.vocab_size:,} ids, fewer than the tokenizer's"
                f" {size:,}: give the tokenizer that it was trained with"
            )
        return model
    if 0 < config.model.vocab_size < size:
        raise UserError(f"model.vocab_size {config.model.vocab_size:,} is below the tokenizer's {size:,}: leave it out")
    padded = config.model.vocab_size or -(-size // multiple) * multiple
    return ModelConfig(**{**config.model.model_dump(), "vocab_size": padded})


def _prompt(text: str, tokenizer: TextTokenizer, validation: Data) -> list[int]:
    try:
        ids = [int(i) for i in tokenizer.encode(text, allowed_special="all", disallowed_special=())]
    except TokenizerError as error:
        raise UserError(f"training.sample_prompt: {error}") from None
    return ids or [int(validation.tokens[0]) if tokenizer.eos_id is None else tokenizer.eos_id]


def _filled(config: TrainConfig, folder: RunFolder, model: ModelConfig) -> TrainConfig:
    """The config that the run folder keeps."""

    paths = {key: absolute(getattr(config.data, key)) for key in ("train", "validation", "tokenizer")}
    return config.model_copy(
        update={
            "init_from": absolute(config.init_from),
            "source": config.source.with_absolute_paths(),
            "data": config.data.model_copy(update=paths),
            "model": ShapeConfig(**model.model_dump()),
            "logging": config.logging.model_copy(update={"run_name": config.logging.run_name or folder.path.name}),
        }
    )
