"""What a training config means: tokenizer, token files, model, batches. Mistakes show before a framework is loaded.

config -> tokenizer -> token files -> batches
       -> model shape, or that of init_from; on --resume the newest checkpoint, which must fit all of it
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lm_core.config import ModelConfig, ScheduleConfig
from lm_core.data.bare_tokens import is_bare, open_bare
from lm_core.data.batches import Batches, LengthRule, RandomWindows, SequentialWindows, ShuffledWindows
from lm_core.data.token_file import TokenFile, check_pair
from lm_core.errors import UserError
from lm_core.model.init import initial_arrays
from lm_core.model.memory import Memory, training_memory
from lm_core.model.parameters import parameter_table
from lm_core.optim import state_shapes
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder, new_run
from lm_core.run.resume import History
from lm_core.terminal import say, show
from lm_pipeline.commands.train_config import DataConfig, ShapeConfig, TrainConfig
from lm_pipeline.commands.train_resume import Resumed, schedule_of
from lm_pipeline.saved_model import ROOT, SavedModel, check_weights, load_model, load_tokenizer_of
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer
from lm_tokenizer.errors import TokenizerError

Weights = dict[str, NDArray[Any]]
_LONGEST_NAME = 200
"""Bytes; file systems take 255."""


@dataclass(frozen=True)
class RunPlan:
    """One run, decided to the last detail."""

    config: TrainConfig
    """With what follows from the rest filled in: run_name, paths that hold from any folder, the model's shape."""
    folder: RunFolder
    checkpoints: Checkpoints
    checkpoint: Checkpoint | None
    """What is gone on from."""
    tokenizer: TextTokenizer
    model: ModelConfig
    schedule: ScheduleConfig
    train: TokenFile
    validation: TokenFile
    batches: Batches
    evaluation: SequentialWindows
    imported: Weights | None
    """Those of init_from."""
    prompt: list[int]
    """What the sample at the end continues."""
    history: History
    """What this resume and those before have changed."""
    notes: list[str]
    """What there is to say of that."""

    @property
    def memory(self) -> Memory:
        """The least that training needs."""
        rows = self.config.training.batch_size
        return training_memory(self.model, self.config.optimizer, self.config.step, rows, self.model.seq_len)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        return {
            "model": self.model.model_dump(mode="json"),
            "optimizer": self.config.optimizer.model_dump(mode="json"),
            "tokenizer": {"kind": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "data": _digests(self.train, self.validation),
            "config": self.config.model_dump(mode="json", exclude={"config", "print_config"}),
            "history": self.history.facts,
            **({"origin": asdict(self.batches.origin)} if isinstance(self.batches, ShuffledWindows) else {}),
        }

    def weights(self) -> Weights:
        """What the run begins or goes on with."""
        if self.checkpoint:
            return self.checkpoint.weights
        return self.imported or initial_arrays(self.model, self.config.seed)


def folder_of(config: TrainConfig) -> RunFolder:
    """Where the run is, or will be.

    Raises:
        UserError: when a new run would be put over another one.
    """
    name = config.logging.run_name
    if not config.save_dir and not name:
        return new_run(ROOT, datetime.now().strftime("%Y%m%d-%H%M%S"))
    folder = RunFolder(Path(config.save_dir) if config.save_dir else ROOT / _checked(name))
    if not config.resume:
        folder.check_new()
    return folder


def _checked(name: str) -> str:
    """A run's name as that of a folder under the other runs, and nowhere else."""
    if name in (".", "..") or not set(name).isdisjoint("/\\\0") or len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise UserError(f"logging.run_name: {show(name)!r} cannot be the name of a folder in {ROOT}: give a plain name")
    return name


def plan_run(config: TrainConfig, folder: RunFolder) -> RunPlan:
    """Decide a run in a folder.

    Raises:
        UserError: when the config contradicts itself or what it names, saying which key; nothing has been written then.
    """
    _check_logging(config)
    _check_batch(config)
    checkpoints = Checkpoints(folder.checkpoints, config.training.keep)
    checkpoint = _newest(checkpoints) if config.resume else None
    resumed = Resumed.of(checkpoint, folder) if checkpoint else None
    if resumed:
        if resumed.doubt:
            say(resumed.doubt)
        config = resumed.extend(config)
    elif config.schedule.on_resume:
        raise UserError("schedule.on_resume: there is nothing to resume; leave it out")
    schedule = schedule_of(config)
    source = load_model(config.init_from, key="init_from") if config.init_from and not checkpoint else None
    tokenizer = _tokenizer(config.data, folder, checkpoint, source)
    model = _model(config, tokenizer, source)
    train, validation = (_token_file(config.data, split, tokenizer) for split in ("train", "validation"))
    check_pair(train, validation)
    filled, digests = _filled(config, folder, model), _digests(train, validation)
    history = resumed.history(filled, digests) if resumed else History()
    if checkpoint:
        _check_fits(checkpoint, config, model)
    batches = _batches(config, model, train)
    if resumed and isinstance(batches, ShuffledWindows):
        batches = replace(batches, origin=resumed.origin(config, digests, batches.per_epoch))
    return RunPlan(
        filled,
        folder,
        checkpoints,
        checkpoint,
        tokenizer,
        model,
        schedule,
        train,
        validation,
        batches,
        _evaluation(config, model, validation),
        source.weights if source else None,
        _prompt(config.training.sample_prompt, tokenizer, validation),
        history,
        resumed.notes(config, schedule, history) if resumed else [],
    )


def _digests(train: TokenFile, validation: TokenFile) -> dict[str, str]:
    """By which token files are told apart, wherever they are."""
    return {"train": train.facts.sha256, "validation": validation.facts.sha256}


def _check_logging(config: TrainConfig) -> None:
    for name in config.logging.backend:
        spec = None if name == "console" else find_spec(name)
        if name != "console" and (spec is None or spec.origin is None):  # a folder of that name is no package
            raise UserError(f"logging.backend: {name} is not installed: pip install {name}, or leave it out")


def _check_batch(config: TrainConfig) -> None:
    rows, parts = config.training.batch_size, config.step.grad_accum_steps
    if rows % parts:
        raise UserError(f"training.batch_size {rows} is not a multiple of step.grad_accum_steps {parts}")


def _newest(checkpoints: Checkpoints) -> Checkpoint | None:
    checkpoint = checkpoints.newest(say)
    if checkpoint is None and checkpoints.files():
        raise UserError(f"--resume: no checkpoint in {checkpoints.folder} is whole")
    return checkpoint


def _tokenizer(
    data: DataConfig, folder: RunFolder, checkpoint: Checkpoint | None, source: SavedModel | None
) -> TextTokenizer:
    """The run's own, that of the config, or that of the model it begins with."""
    if checkpoint:
        return load_tokenizer_of(folder.path, checkpoint.facts, "--resume")
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
        # What is no part of the weights is chosen anew.
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


def _token_file(data: DataConfig, split: str, tokenizer: TextTokenizer) -> TokenFile:
    path = getattr(data, split)
    if not path:
        advice = ", which --validation_fraction 0.1 makes of the training text" if split == "validation" else ""
        raise UserError(f"data.{split}: name a token file of transformerlm-make-data{advice}")
    try:
        file = _bare_file(data, path, tokenizer) if is_bare(path) else TokenFile.open(path, tokenizer.fingerprint)
    except UserError as error:
        raise UserError(f"data.{split}: {error}") from None
    if file.facts.vocab_size > tokenizer.vocab_size:
        raise UserError(
            f"data.{split}: {path} has ids up to {file.facts.vocab_size - 1:,}, beyond the tokenizer's vocabulary of"
            f" {tokenizer.vocab_size:,}"
        )
    return file


def _bare_file(data: DataConfig, path: str, tokenizer: TextTokenizer) -> TokenFile:
    """A file of ids alone: what a sidecar says, data.tokenizer must."""
    if not data.tokenizer:
        raise UserError(f"{path} has no sidecar: name the tokenizer that it was made with as data.tokenizer")
    file = open_bare(path, tokenizer.vocab_size, tokenizer.eos_id)
    say(
        f"note: {path} has no sidecar: its {len(file):,} ids are below the {tokenizer.vocab_size:,} of"
        f" {data.tokenizer}; that they are of this tokenizer is not checked"
    )
    return file


def _batches(config: TrainConfig, model: ModelConfig, file: TokenFile) -> Batches:
    rows, length = config.training.batch_size, model.seq_len
    try:
        if config.data.order == "random":
            return RandomWindows(file.tokens, rows, LengthRule(length, length), config.seed)
        return ShuffledWindows(file.tokens, rows, length, config.seed)
    except UserError as error:
        raise UserError(f"data.train: {file.path}: {error}; give more text, or a smaller model.seq_len") from None


def _evaluation(config: TrainConfig, model: ModelConfig, file: TokenFile) -> SequentialWindows:
    limit = config.data.eval_tokens or None
    try:
        return SequentialWindows(file.tokens, config.training.batch_size, model.seq_len, limit)
    except UserError as error:
        raise UserError(f"data.validation: {file.path}: {error}") from None


def _prompt(text: str, tokenizer: TextTokenizer, validation: TokenFile) -> list[int]:
    try:
        ids = [int(i) for i in tokenizer.encode(text, allowed_special="all", disallowed_special=())]
    except TokenizerError as error:
        raise UserError(f"training.sample_prompt: {error}") from None
    return ids or [int(validation.tokens[0]) if tokenizer.eos_id is None else tokenizer.eos_id]


def _filled(config: TrainConfig, folder: RunFolder, model: ModelConfig) -> TrainConfig:
    """The config that the run folder keeps."""

    def absolute(path: str) -> str:
        return str(Path(path).resolve()) if path and Path(path).exists() else path

    paths = {key: absolute(getattr(config.data, key)) for key in ("train", "validation", "tokenizer")}
    return config.model_copy(
        update={
            "resume": False,
            "save_dir": "",
            "config": "",
            "print_config": False,
            "init_from": absolute(config.init_from),
            "data": config.data.model_copy(update=paths),
            "model": ShapeConfig(**model.model_dump()),
            "logging": config.logging.model_copy(update={"run_name": config.logging.run_name or folder.path.name}),
        }
    )


def _check_fits(checkpoint: Checkpoint, config: TrainConfig, model: ModelConfig) -> None:
    """The checkpoint must be of this model and optimizer, whatever its config says."""
    theirs = checkpoint.facts.get("model") or {}
    different = [
        f"model.{key} is {theirs.get(key)} in the run and {ours} here"
        for key, ours in model.model_dump(mode="json", exclude={"dropout"}).items()
        if theirs.get(key) != ours
    ]
    if different:
        raise UserError(f"--resume: {'; '.join(different)}")
    check_weights(model, checkpoint.weights, f"--resume: {checkpoint.path.stem}.safetensors")
    expected = state_shapes(config.optimizer, parameter_table(model))
    if {name: array.shape for name, array in checkpoint.optimizer_state.items()} != expected:
        was = (checkpoint.facts.get("optimizer") or {}).get("name")
        raise UserError(f"--resume: the optimizer state in the run, of {was}, does not fit the config's optimizer")
