"""A folder of Hugging Face's, with the tokenizer files that models are published with."""

from pathlib import Path

from lm_core.config import ModelConfig
from lm_core.interchange.folder import export_model
from lm_core.model.init import initial_arrays
from lm_pipeline.saved_model import load_model
from lm_tokenizer import Tokenizer, formats

MODEL = ModelConfig(vocab_size=300, seq_len=8, d_model=8, n_layers=1, n_heads=1, tie_embeddings=True)


def test_gpt2s_folder_without_a_tokenizer_json_is_whole(folder: Path, tokenizer: Tokenizer) -> None:
    export_model(folder / "hf", MODEL, initial_arrays(MODEL, 1))
    formats.write_gpt2(tokenizer.vocabulary, folder / "hf")
    model = load_model("hf")
    assert isinstance(model.tokenizer, Tokenizer)
    assert model.tokenizer.fingerprint == tokenizer.fingerprint
