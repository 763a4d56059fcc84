"""Exports in `transformers` and mlx-lm, and models of `transformers` in both backends: the same logits and ids."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.backend import load_backend
from lm_core.config import ModelConfig, StepConfig
from lm_core.errors import UserError
from lm_core.interchange.folder import export_model, import_model
from lm_core.testing import ADAMW, MODELS, rough_arrays
from lm_tokenizer import Tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

transformers: Any = pytest.importorskip("transformers")
torch: Any = pytest.importorskip("torch")

BACKENDS = ["torch", "mlx"]
GPT2 = MODELS["gpt2"].model_copy(update={"seq_len": 48})
LLAMA = MODELS["llama"].model_copy(update={"seq_len": 48, "rope_theta": 5e5})
EXPORTED: dict[str, ModelConfig] = {
    "gpt2": GPT2,
    "gpt2-untied": GPT2.model_copy(update={"tie_embeddings": False, "mlp": "gelu_tanh", "d_ff": 80}),
    "gpt2-no-bias": GPT2.model_copy(update={"bias": False, "mlp": "gelu_tanh"}),
    "llama": LLAMA,
    "llama-tied-bias": LLAMA.model_copy(update={"tie_embeddings": True, "bias": True, "n_kv_heads": None}),
}
SIZES = {"vocab_size": 31, "bos_token_id": None, "eos_token_id": None}
GPT2_SIZES = SIZES | {"n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLAMA_SIZES = SIZES | {
    "max_position_embeddings": 48, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", GPT2_SIZES),
    "gpt2-untied": ("GPT2Config", GPT2_SIZES | {"activation_function": "gelu", "tie_word_embeddings": False}),
    "llama": ("LlamaConfig", LLAMA_SIZES),
    "llama-tied-bias": (
        "LlamaConfig",
        LLAMA_SIZES | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "mistral": ("MistralConfig", LLAMA_SIZES | {"sliding_window": None}),
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 31, (3, 40))


def our_logits(backend: str, config: ModelConfig, weights: Any, ids: NDArray[Any] = IDS) -> NDArray[Any]:
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    trainer = load_backend(backend).build(config, ADAMW, StepConfig(device="cpu"), weights, 0)
    return np.asarray(trainer.logits(ids))


def their_logits(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model.eval()(torch.from_numpy(IDS)).logits)


@pytest.mark.parametrize("name", EXPORTED)
def test_transformers_gives_the_logits_of_both_backends(name: str, tmp_path: Path) -> None:
    config, weights = EXPORTED[name], rough_arrays(EXPORTED[name])
    export_model(tmp_path, config, weights)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info  # nothing missing, nothing left over
    assert model.dtype == torch.float32
    for backend in BACKENDS:
        np.testing.assert_allclose(our_logits(backend, config, weights), their_logits(model), atol=1e-5)


@pytest.mark.parametrize("name", THEIRS)
def test_a_model_of_transformers_gives_its_logits_in_both_backends(name: str, tmp_path: Path) -> None:
    kind, values = THEIRS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**values))
    with torch.no_grad():
        for parameter in model.parameters():  # so that biases and norms count
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path, max_shard_size=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    imported = import_model(tmp_path)
    for backend in BACKENDS:
        logits = our_logits(backend, imported.config, imported.weights)
        np.testing.assert_allclose(logits, their_logits(model), atol=1e-5)


def test_a_half_precision_model_of_transformers_is_read_exactly(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**LLAMA_SIZES)).to(dtype)
        model.save_pretrained(tmp_path)
        embed = model.model.embed_tokens.weight.detach().float().numpy()
        np.testing.assert_array_equal(import_model(tmp_path).weights["embed.weight"], embed)


def test_transformers_reads_an_export_in_bfloat16(tmp_path: Path) -> None:
    weights = rough_arrays(LLAMA)
    export_model(tmp_path, LLAMA, weights, dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    expected = torch.from_numpy(weights["lm_head.weight"]).bfloat16()
    assert torch.equal(model.lm_head.weight, expected)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_greedy_continuation_is_ours(name: str, backend: str, tmp_path: Path) -> None:
    config, weights = EXPORTED[name], rough_arrays(EXPORTED[name])
    export_model(tmp_path, config, weights)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = torch.tensor([[3, 1, 4]])
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30)
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    trainer = load_backend(backend).build(config, ADAMW, StepConfig(device="cpu"), weights, 0)
    ids = [3, 1, 4]
    for _ in range(30):
        ids.append(int(np.argmax(trainer.logits(np.array([ids]))[0, -1])))
    assert theirs[0].tolist() == ids


@pytest.mark.parametrize("name", ["llama", "llama-tied-bias", "gpt2-no-bias"])
def test_mlx_lm_gives_our_logits(name: str, tmp_path: Path) -> None:
    mx: Any = pytest.importorskip("mlx.core")
    utils: Any = pytest.importorskip("mlx_lm.utils")
    config, weights = EXPORTED[name], rough_arrays(EXPORTED[name])
    export_model(tmp_path, config, weights)
    model, _ = utils.load_model(tmp_path)
    np.testing.assert_allclose(np.array(model(mx.array(IDS))), our_logits("mlx", config, weights), atol=1e-4)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("pattern", ["gpt2", "llama3"])
def test_the_tokenizer_beside_a_model_gives_our_ids(config: ModelConfig, pattern: str, tmp_path: Path) -> None:
    text = "It's the first of 12345 texts.\n\n  And it is  the second; über 2,5 Größen!\n"
    (tmp_path / "corpus.txt").write_text(text * 20)
    ours = Tokenizer.train(tmp_path / "corpus.txt", vocab_size=290, special_tokens=["<|endoftext|>"], pattern=pattern)
    ours.save(tmp_path / "tokenizer")
    files = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    config = config.model_copy(update={"vocab_size": 320})
    export_model(tmp_path / "model", config, rough_arrays(config), tokenizer_files=files, eos_ids=[ours.eos_id])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs(text)["input_ids"] == ours.encode(text)
    assert theirs("a<|endoftext|>")["input_ids"] == ours.encode("a<|endoftext|>", allowed_special="all")
    assert theirs.decode(ours.encode(text)) == text
    assert (theirs.eos_token, theirs.eos_token_id) == ("<|endoftext|>", ours.eos_id)
    model = import_model(tmp_path / "model")
    assert model.config.vocab_size == len(theirs) == 290  # so nobody draws one of the 30 ids that stand for nothing
    assert model.tokenizer is not None
    assert Tokenizer.load(model.tokenizer).fingerprint == ours.fingerprint


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_every_key_that_transformers_writes_is_read_or_known_to_say_nothing(name: str, tmp_path: Path) -> None:
    """And one more is refused: so a new version of transformers with a new key is noticed here."""
    kind, values = THEIRS[name]
    ours = GPT2 if name == "gpt2" else LLAMA.model_copy(update={"d_ff": 80})
    export_model(tmp_path, ours, rough_arrays(ours))
    said = getattr(transformers, kind)(**values).to_dict()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(said))
    assert import_model(tmp_path).config.d_model == 32
    config.write_text(json.dumps(said | {"some_new_scale": 2.0}))
    with pytest.raises(UserError, match=r"some_new_scale = 2\.0 is not known"):
        import_model(tmp_path)
