"""A folder of Hugging Face's, with the tokenizer files that models are published with; one that learned little."""

from pathlib import Path

import numpy as np
import pytest

from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.interchange.folder import export_model
from lm_core.model.init import initial_arrays
from lm_core.run.checkpoint import Checkpoints
from lm_pipeline.saved_model import SavedModel, Weights, load_model
from lm_tokenizer import Tokenizer, formats

MODEL = ModelConfig(vocab_size=300, seq_len=8, d_model=8, n_layers=1, n_heads=1, tie_embeddings=True)


def test_gpt2s_folder_without_a_tokenizer_json_is_whole(folder: Path, tokenizer: Tokenizer) -> None:
    export_model(folder / "hf", MODEL, initial_arrays(MODEL, 1))
    formats.write_gpt2(tokenizer.vocabulary, folder / "hf")
    model = load_model("hf")
    assert isinstance(model.tokenizer, Tokenizer)
    assert model.tokenizer.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(("val_loss", "noted"), [(4.0, False), (5.0, True), (None, False)])
def test_a_run_that_has_learned_little_is_noted(
    folder: Path, tokenizer: Tokenizer, val_loss: float | None, noted: bool
) -> None:
    tokenizer.save(folder / "run" / "tokenizer")
    (folder / "run" / "config.toml").write_text("")
    known = {"kind": tokenizer.name, "fingerprint": tokenizer.fingerprint}
    metadata = {"model": MODEL.model_dump(), "tokenizer": known, "step": 1, "val_loss": val_loss}
    Checkpoints(folder / "run" / "checkpoints").save(initial_arrays(MODEL, 1), {}, metadata)
    note = load_model("run", "latest").note
    assert ("validation loss 5.00 nats, where a guess has 5.70" in note) == noted == bool(note)


@pytest.mark.parametrize(
    ("weights", "evaluated", "is_average"),
    [("evaluated", True, True), ("evaluated", False, False), ("trained", True, False), ("average", False, True)],
)
def test_the_weights_are_those_that_were_evaluated_unless_others_are_asked_for(
    folder: Path, tokenizer: Tokenizer, weights: Weights, evaluated: bool, is_average: bool
) -> None:
    save_run(folder, tokenizer, evaluated, {f"average.{name}": a for name, a in initial_arrays(MODEL, 2).items()})
    model = load_model("run", "latest", weights=weights)
    np.testing.assert_array_equal(model.weights["embed.weight"], initial_arrays(MODEL, 1 + is_average)["embed.weight"])
    assert ("average of the weights" in model.name) == is_average


def test_an_average_that_there_is_not_is_one_line(folder: Path, tokenizer: Tokenizer) -> None:
    save_run(folder, tokenizer, False, {})
    with pytest.raises(UserError, match=r"kept no average of its weights: train with optimizer\.average"):
        load_model("run", weights="average")


def save_run(folder: Path, tokenizer: Tokenizer, evaluated: bool, state: dict[str, np.ndarray]) -> None:
    tokenizer.save(folder / "run" / "tokenizer")
    (folder / "run" / "config.toml").write_text("")
    known = {"kind": tokenizer.name, "fingerprint": tokenizer.fingerprint}
    metadata = {"model": MODEL.model_dump(), "tokenizer": known, "step": 1, "eval_average": evaluated}
    Checkpoints(folder / "run" / "checkpoints").save(initial_arrays(MODEL, 1), state, metadata)


def test_a_model_whose_loss_is_not_known_is_not_noted(tokenizer: Tokenizer) -> None:
    assert SavedModel(MODEL, {}, tokenizer, "theirs").note == ""
