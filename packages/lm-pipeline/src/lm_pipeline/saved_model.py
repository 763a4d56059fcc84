"""A model on disk, with the tokenizer that belongs to it: a run folder, or a folder of Hugging Face's `transformers`.

    run folder   checkpoints/ -> weights, shape      tokenizer/      -> tokenizer
    HF folder    config.json, *.safetensors          tokenizer.json

What does not fit together is found here, before a framework is loaded.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.interchange.folder import import_model
from lm_core.model.parameters import check_weights
from lm_core.run.checkpoint import Checkpoint, Checkpoints
from lm_core.run.folder import RunFolder, newest_run
from lm_core.terminal import say
from lm_pipeline.generation.ending import eos_ids
from lm_tokenizer.adapters import TextTokenizer, load_tokenizer, tokenizer_file_in
from lm_tokenizer.errors import TokenizerError

ROOT = Path("runs") / "transformerlm"
Which = Literal["best", "latest"]
Weights = Literal["evaluated", "trained", "average"]
_NOISE = 0.75
"""Part of the loss of a guess above which a model knows little more than which tokens are frequent."""


@dataclass(frozen=True)
class SavedModel:
    """A model, and the tokenizer that its ids are of."""

    config: ModelConfig
    weights: dict[str, NDArray[Any]]
    tokenizer: TextTokenizer
    name: str
    """Description for the user."""
    val_loss: float | None = None
    """Validation loss of the checkpoint, in nats per token, where it is known."""
    own_eos_ids: tuple[int, ...] = ()
    """The ids that end a text by the model's own files, which go before the tokenizer's."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids at any of which a text ends."""
        return self.own_eos_ids or eos_ids(self.tokenizer)

    @property
    def note(self) -> str:
        """A line for the user on a model that has learned too little to write; "" of others."""
        guess = math.log(self.config.vocab_size)
        if self.val_loss is None or self.val_loss <= _NOISE * guess:
            return ""
        return (
            f"note: this checkpoint has learned little (validation loss {self.val_loss:.2f} nats, where a guess has"
            f" {guess:.2f}): its text is noise until it has trained longer"
        )


def load_model(
    path: str, which: Which = "best", tokenizer: str = "", key: str = "checkpoint", *, weights: Weights = "evaluated"
) -> SavedModel:
    """Read a run folder or a Hugging Face folder.

    Args:
        path: the folder; "" is the newest run under `runs/transformerlm`.
        which: of a run's checkpoints.
        tokenizer: where it is not the folder's own.
        key: of the config, that messages name.
        weights: of a run: those that its validation loss is of, the trained ones, or the average that it kept of them.

    Raises:
        UserError: when there is none, it is damaged, or its parts do not fit together.
    """
    folder = Path(path) if path else newest_run(ROOT, key).path
    if not folder.exists():
        raise UserError(f"{key}: there is no folder {folder}")
    if (folder / "checkpoints").is_dir():
        return _of_run(RunFolder(folder), which, tokenizer, key, weights)
    if (folder / "config.json").is_file() and weights == "average":
        raise UserError(f"weights: {folder} is a Hugging Face folder, and has no average: leave it out")
    if (folder / "config.json").is_file():
        return _of_hugging_face(folder, tokenizer, key)
    raise UserError(f"{key}: {folder} is neither a run folder, with checkpoints/, nor one with a config.json")


def load_tokenizer_of(run: RunFolder, metadata: dict[str, Any], key: str) -> TextTokenizer:
    """The tokenizer that a run folder carries, which must be the one that its checkpoint was trained with."""
    try:
        kind, fingerprint = metadata["tokenizer"]["kind"], metadata["tokenizer"]["fingerprint"]
    except (KeyError, TypeError):
        raise UserError(f"{key}: the checkpoint in {run.path} does not name its tokenizer") from None
    tokenizer = _tokenizer(f"{kind}:{run.tokenizer}", key)
    if tokenizer.fingerprint != fingerprint:
        raise UserError(f"{key}: the tokenizer in {run.tokenizer} is not the one that the checkpoint was made with")
    return tokenizer


def _of_run(run: RunFolder, which: Which, tokenizer: str, key: str, weights: Weights) -> SavedModel:
    run.check_format()
    checkpoints, folder = Checkpoints(run.checkpoints), run.path
    checkpoint = checkpoints.best(say) if which == "best" else checkpoints.newest(say)
    if checkpoint is None:
        raise UserError(f"{key}: {folder} has no intact checkpoint")
    config = model_of(checkpoint, key)
    check_weights(config, checkpoint.weights, f"{key}: {checkpoint.path.stem}.safetensors")
    own = load_tokenizer_of(run, checkpoint.metadata, key)
    if tokenizer and _tokenizer(tokenizer, "tokenizer").fingerprint != own.fingerprint:
        raise UserError(f"tokenizer: {tokenizer} is not the one that the run {folder} was trained with; leave it out")
    _check_vocabulary(own, config, folder, key)
    name, val_loss = f"{folder}, {which} checkpoint, step {checkpoint.step:,}", checkpoint.metadata.get("val_loss")
    arrays = checkpoint.weights
    if weights == "average" or (weights == "evaluated" and checkpoint.metadata.get("eval_average")):
        arrays, name = _average_in(checkpoint, key), f"{name}, average of the weights"
    return SavedModel(config, arrays, own, name, val_loss if isinstance(val_loss, float) else None)


def _average_in(checkpoint: Checkpoint, key: str) -> dict[str, NDArray[Any]]:
    try:
        return {name: checkpoint.optimizer_state[f"average.{name}"] for name in checkpoint.weights}
    except KeyError:
        raise UserError(f"{key}: the run kept no average of its weights: train with optimizer.average") from None


def model_of(checkpoint: Checkpoint, key: str) -> ModelConfig:
    """The shape of a checkpoint's model."""
    return ModelConfig.parse(checkpoint.metadata.get("model") or {}, f"{key}: {checkpoint.path.name}")


def _of_hugging_face(folder: Path, tokenizer: str, key: str) -> SavedModel:
    try:
        model = import_model(folder)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if not tokenizer and tokenizer_file_in(folder) is None:
        raise UserError(f"{key}: {folder} has no tokenizer.json: name its tokenizer by the key tokenizer")
    own = _tokenizer(tokenizer or str(folder), "tokenizer" if tokenizer else key)
    _check_vocabulary(own, model.config, folder, key)
    return SavedModel(model.config, model.weights, own, str(folder), own_eos_ids=model.eos_ids)


def _tokenizer(name: str, key: str) -> TextTokenizer:
    try:
        return load_tokenizer(name)
    except TokenizerError as error:
        raise UserError(f"{key}: {error}") from None


def _check_vocabulary(tokenizer: TextTokenizer, config: ModelConfig, folder: Path, key: str) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{key}: the tokenizer has {tokenizer.vocab_size:,} ids, and the model of {folder} {config.vocab_size:,}:"
            " they do not belong together"
        )
