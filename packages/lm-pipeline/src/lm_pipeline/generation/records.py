"""Sinks of the records of texts: a file of JSON lines, an artifact of Weights & Biases."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lm_core.errors import UserError
from lm_core.file_names import json_text
from lm_core.run.sinks.wandb import WandbTexts
from lm_core.terminal import say
from lm_pipeline.generation.config import InferConfig


class TextRecords:
    """Takes records; W&B gets them all when it is closed, with those of a call that was interrupted.

    Raises:
        UserError: when the file cannot be written or W&B does not start.
    """

    def __init__(self, config: InferConfig, model: str) -> None:
        logging, wandb = config.logging, config.wandb
        self.file = _opened(logging.file) if logging.file else None
        self.records: list[Mapping[str, Any]] = []
        self.wandb: WandbTexts | None = None
        if "wandb" in logging.backend:
            told = {**config.model_dump(mode="json", exclude={"config", "print_config", "prompt"}), "model": model}
            beside = Path(logging.file).parent if logging.file else Path()
            self.wandb = WandbTexts(beside, wandb.project, told, wandb.entity or None)

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one."""
        if self.file:
            self.file.write(json_text(record) + "\n")
            self.file.flush()
        if self.wandb:
            self.records.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file:
            self.file.close()
        if self.wandb:
            try:
                self.wandb.close(self.records, failed=error is not None)
            except Exception as failure:  # the texts are written: what W&B raises is reported and ends nothing
                say(f"wandb: {failure or type(failure).__name__}")


def check_logging(config: InferConfig) -> None:
    """Find what is not installed before a model is loaded.

    Raises:
        UserError: naming it.
    """
    if "wandb" in config.logging.backend:
        spec = find_spec("wandb")
        if spec is None or spec.origin is None:  # a folder of that name, such as W&B's own, is not a package
            raise UserError("logging.backend: wandb is not installed: pip install wandb, or leave it out")


def _opened(path: str) -> IO[str]:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"logging.file: cannot write {path}: {error.strerror}") from None
