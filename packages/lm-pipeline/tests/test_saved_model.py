"""A folder of Hugging Face's, with the tokenizer files that models are published with; one that learned little."""

from pathlib import Path

import pytest

from lm_core.config import ModelConfig
from lm_core.interchange.folder import export_model
from lm_core.model.init import initial_arrays
from lm_core.run.checkpoint import Checkpoints
from lm_pipeline.saved_model import SavedModel, load_model
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


def test_a_model_whose_loss_is_not_known_is_not_noted(tokenizer: Tokenizer) -> None:
    assert SavedModel(MODEL, {}, tokenizer, "theirs").note == ""
