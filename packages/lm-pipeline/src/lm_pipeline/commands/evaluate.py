"""`transformerlm-evaluate`: a saved model and a text -> figures.

    config -> saved model, text -> ids -> windows -> marks -> figures: a JSON line, and evaluation.json

A framework is imported when the model and the text have been found good.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from tqdm import tqdm

from lm_core.backend import load_backend
from lm_core.config import StepConfig
from lm_core.disk.files import make_folder, write_whole
from lm_core.errors import UserError
from lm_core.file_names import json_text
from lm_core.run.folder import newest_run
from lm_core.terminal import put, say
from lm_pipeline.evaluation.evaluate import build, evaluate, windows_of
from lm_pipeline.evaluation.text import EvaluationText, open_tokens, read_texts
from lm_pipeline.program import run_program
from lm_pipeline.saved_model import ROOT, SavedModel, Weights, Which, load_model
from lm_pipeline.text.config import InputConfig

PROGRAM = "transformerlm-evaluate"
RESULT = "evaluation.json"


class EvaluateConfig(InputConfig):
    """Evaluate a trained model on text: bits per byte, accuracy, loss by position, calibration."""

    checkpoint: str = ""
    """Run folder, or a Hugging Face folder; the newest run under runs/transformerlm when empty."""
    which: Which = "best"
    """Checkpoint of a run: the one with the best validation loss, or the latest."""
    weights: Weights = "evaluated"
    """Weights of a run: those that its validation loss is of, the trained ones, or the average that it kept of them."""
    tokenizer: str = ""
    """Tokenizer for a Hugging Face folder without one, as path or kind:path; a run folder has its own."""
    text: tuple[str, ...] = ()
    """Files, folders or globs of text to evaluate on; "-" for standard input."""
    tokens: str = ""
    """Token file to evaluate on, in place of text; or the folder of a stream of shards: its validation part."""
    stride: int = Field(0, ge=0)
    """Tokens from one window to the next; less than the context gives each target more context. 0: the context."""
    within_documents: bool = False
    """Attention stays within documents, and positions count from their start, as where the model was trained so."""
    batch_size: int = Field(16, gt=0)
    """Windows at a time."""
    limit_tokens: int = Field(0, ge=0)
    """Number of targets to evaluate, the first ones; 0: all."""
    backend: Literal["auto", "torch", "mlx"] = "auto"
    """The framework; auto is MLX on Apple silicon, torch elsewhere."""
    output: str = ""
    """File for the result; when empty, evaluation.json in the run folder, and none for a Hugging Face folder."""
    step: StepConfig = StepConfig()
    """How the backend executes the model; training options have no effect."""


def main() -> int:
    """The program; returns its exit code."""
    return run_program(EvaluateConfig, PROGRAM, evaluate_saved)


def evaluate_saved(config: EvaluateConfig) -> None:
    """Print the figures as JSON, and write them.

    Raises:
        UserError: for a mistake in the config, before a framework is loaded.
        NonFiniteError: when the model gives a loss that is not finite.
    """
    if bool(config.text) == bool(config.tokens):
        raise UserError("text: give files of text, or a token file as tokens" + " (not both)" * bool(config.text))
    folder = Path(config.checkpoint) if config.checkpoint else newest_run(ROOT, "checkpoint").path
    model = load_model(str(folder), config.which, config.tokenizer, weights=config.weights)
    text = _text(config, model)
    how = config.stride, config.batch_size, config.limit_tokens
    windows_of(model, text, *how, within_documents=config.within_documents)
    backend = load_backend(config.backend)
    say(f"{model.name}; {backend.describe(config.step)}")
    scorer = build(model, backend, config.step)
    with tqdm(unit="token", unit_scale=True, desc="evaluating", disable=None) as bar:

        def show(done: int, targets: int) -> None:
            bar.total = targets
            bar.update(done - bar.n)

        figures = evaluate(scorer, model, text, *how, within_documents=config.within_documents, show=show)
    record = {"checkpoint": model.name, "text": text.name, **figures}
    put(json_text(record))
    _write(config, folder, record)


def _text(config: EvaluateConfig, model: SavedModel) -> EvaluationText:
    if config.tokens:
        return open_tokens(config.tokens, model.tokenizer)
    return read_texts(config.text, config, model.tokenizer)


def _write(config: EvaluateConfig, folder: Path, record: dict[str, Any]) -> None:
    if not config.output and not (folder / "checkpoints").is_dir():
        return
    path = Path(config.output) if config.output else folder / RESULT
    try:
        make_folder(path.parent)
        write_whole(path, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"output: cannot write {path}: {error.strerror}") from None
    say(f"written: {path}")
