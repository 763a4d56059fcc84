"""`transformerlm-export`: run folder -> a folder that `transformers` loads."""

import tempfile
from pathlib import Path

from lm_core.errors import UserError
from lm_core.interchange import tokenizer as tokenizer_files
from lm_core.interchange.folder import export_model
from lm_core.interchange.tensor_file import FileDtype
from lm_core.terminal import put
from lm_pipeline.program import ProgramConfig, run_program
from lm_pipeline.saved_model import SavedModel, Weights, Which, load_model
from lm_tokenizer.adapters.characters import CharacterTokenizer

PROGRAM = "transformerlm-export"


class ExportConfig(ProgramConfig):
    """Write a trained model as a Hugging Face folder: config.json, model.safetensors, tokenizer.json."""

    checkpoint: str = ""
    """Run folder; the newest run under runs/transformerlm when empty."""
    which: Which = "best"
    """The checkpoint with the best validation loss, or the latest."""
    weights: Weights = "evaluated"
    """Weights of a run: those that its validation loss is of, the trained ones, or the average that it kept of them."""
    output: str = ""
    """Folder to write; created if missing, refused if it holds other files."""
    overwrite: bool = False
    """Replace the model that is already in output."""
    dtype: FileDtype = "float32"
    """Type of the weights in the file."""


def main() -> int:
    """The program; returns its exit code."""
    return run_program(ExportConfig, PROGRAM, export)


def export(config: ExportConfig) -> None:
    """Write the folder.

    Raises:
        UserError: for a mistake in the config, or a model that has no counterpart there.
    """
    if not config.output:
        raise UserError("output: give a folder to write")
    model = load_model(config.checkpoint, config.which, weights=config.weights)
    export_model(
        config.output,
        model.config,
        model.weights,
        tokenizer_files=_tokenizer_files(model),
        eos_ids=model.eos_ids,
        vocab_size=model.tokenizer.vocab_size,
        dtype=config.dtype,
        overwrite=config.overwrite,
    )
    put(config.output)


def _tokenizer_files(model: SavedModel) -> dict[str, bytes]:
    """Files of the tokenizer, if `transformers` can read it.

    Raises:
        UserError: when there is no tokenizer.json among it.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.tokenizer.save(Path(folder))
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name in tokenizer_files.NAMES}
    if isinstance(model.tokenizer, CharacterTokenizer):
        files[tokenizer_files.TOKENIZER] = model.tokenizer.tokenizer_json()
    if tokenizer_files.TOKENIZER not in files:
        raise UserError(
            f"a tokenizer of the kind {model.tokenizer.name!r} has no {tokenizer_files.TOKENIZER} to export"
        )
    return files
