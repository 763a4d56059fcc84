"""`transformerlm-attention`: a trained model and a text -> what its heads do, as arrays and as a page.

    config -> saved model, ids -> windows -> make_study -> attention.npz, attention.html

A framework is imported when the model and the text have been found good.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lm_core.backend import load_backend
from lm_core.errors import UserError
from lm_core.model.memory import check_memory, decoding_memory
from lm_core.terminal import aligned, put, say
from lm_pipeline.inside.config import AttentionConfig
from lm_pipeline.inside.page import SCORES, head_name, write_page
from lm_pipeline.inside.study import Study, make_study
from lm_pipeline.inside.windows import first_tokens, windows
from lm_pipeline.program import run_program
from lm_pipeline.saved_model import SavedModel, load_model
from lm_pipeline.text.one_file import read_text
from lm_tokenizer.adapters import TextTokenizer
from lm_tokenizer.errors import TokenizerError

PROGRAM = "transformerlm-attention"
ARRAYS, PAGE = "attention.npz", "attention.html"
BYTES_OF_A_TOKEN = 64
"""How much of a file is encoded at most for each token that is read."""
STRONGEST = 3
"""Heads of a score that are printed."""


def main() -> int:
    """The program; returns its exit code."""
    return run_program(AttentionConfig, PROGRAM, attention)


def attention(config: AttentionConfig) -> None:
    """Make the study, write it, and print the heads that stand out.

    Raises:
        UserError: for a mistake in the config, before a framework is loaded; or a folder that cannot be written.
    """
    folder = _output(config)
    if not config.text:
        raise UserError("text: give a text file for the model to read")
    model = load_model(config.checkpoint, config.which, config.tokenizer)
    most = max(config.tokens, model.config.seq_len)
    ids = _ids(read_text(config.text)[: most * BYTES_OF_A_TOKEN], model.tokenizer, "text")
    batches = windows(ids[: most + 1], model.config.seq_len, config.tokens)
    shown = _ids(config.show, model.tokenizer, "show")[: model.config.seq_len] if config.show else None
    ablated = first_tokens(batches, config.ablation_tokens) if config.ablation_tokens else []
    backend = load_backend(config.backend)
    check_memory(decoding_memory(model.config, config.step, 1), backend.memory(config.step), "the study")
    say(f"{model.name}; {backend.describe(config.step)}")
    with _writing(folder):  # before the study, which takes a while
        folder.mkdir(parents=True, exist_ok=True)
    scorer = backend.scorer(model.config, config.step, model.weights)
    heads = model.config.n_layers * model.config.n_heads
    with tqdm(total=len(batches) + heads * bool(ablated), unit="pass", desc="attention", disable=None) as bar:
        study = make_study(
            scorer, model.config, model.weights, batches, ablated, model.tokenizer.decode,
            seed=config.seed, left_out=_left_out(model), vocab_size=model.tokenizer.vocab_size, shown=shown,
            lens_tokens=config.lens_tokens,
            tick=bar.update,
        )  # fmt: skip
    with _writing(folder):
        study.save(folder / ARRAYS)
        write_page(folder / PAGE, study, model.name)
    put(aligned(_rows(study)))
    put(str(folder / PAGE))


def _output(config: AttentionConfig) -> Path:
    """The folder to write.

    Raises:
        UserError: when none is named, or a study is there.
    """
    if not config.output:
        raise UserError("output: give a folder to write")
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output: {folder} is not a folder")
    there = [name for name in (ARRAYS, PAGE) if (folder / name).exists()]
    if there and not config.overwrite:
        raise UserError(f"output: {folder / there[0]} is already there; give another folder, or overwrite")
    return folder


def _ids(text: str, tokenizer: TextTokenizer, key: str) -> NDArray[np.int32]:
    try:
        return tokenizer.encode_array(text, allowed_special="all", disallowed_special=()).astype(np.int32)
    except TokenizerError as error:
        raise UserError(f"{key}: {error}") from None


def _left_out(model: SavedModel) -> set[int]:
    return {*model.tokenizer.special_tokens.values(), *model.eos_ids}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"output: cannot write in {folder}: {error.strerror or error}") from None


def _rows(study: Study) -> list[list[str]]:
    """The strongest heads of each score."""
    rows = [["score", "heads (layer.head)"]]
    for key, (title, _) in SCORES.items():
        scores = getattr(study, key)
        if np.isfinite(scores).all():
            order = np.argsort(-scores, axis=None, kind="stable")[:STRONGEST]
            places = [(int(place) // scores.shape[1], int(place) % scores.shape[1]) for place in order]
            rows.append([title.lower(), ", ".join(f"{head_name(*place)} ({scores[place]:.3f})" for place in places)])
    return rows
