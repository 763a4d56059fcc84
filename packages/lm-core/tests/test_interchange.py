"""Folders of `transformers`, out and in: to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lm_core.interchange.folder import CONFIG, GENERATION, architecture_of, export_model, import_model
from lm_core.interchange.tensor_file import INDEX, WHOLE, narrowed, widened
from lm_core.reference.model import logits
from lm_core.testing import rough_arrays

from .small_exports import (
    GPT2,
    IDS,
    LLAMA,
    MODELS,
    assert_same,
    change,
    settings,
    tensors,
    write_other,
    write_tensors,
)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    config, weights = MODELS[name], rough_arrays(MODELS[name])
    export_model(tmp_path / "model", config, weights)
    model = import_model(tmp_path / "model")
    said = model.config.model_dump()
    assert said == config.model_dump() | {"d_ff": config.ff_dim, "n_kv_heads": said["n_kv_heads"]}
    assert model.config.kv_heads == config.kv_heads
    assert_same(model.weights, weights)
    np.testing.assert_array_equal(logits(model.config, model.weights, IDS), logits(config, weights, IDS))
    assert model.tokenizer is None
    assert {path.name for path in tmp_path.rglob("*")} == {"model", CONFIG, GENERATION, WHOLE}


@pytest.mark.parametrize("tie", [True, False])
def test_a_gpt2_without_biases_comes_back_with_biases_of_0(tie: bool, tmp_path: Path) -> None:
    config = GPT2.model_copy(update={"bias": False, "tie_embeddings": tie})
    weights = rough_arrays(config)
    export_model(tmp_path, config, weights)
    model = import_model(tmp_path)
    assert model.config == config.model_copy(update={"bias": True, "d_ff": config.ff_dim})
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, weights.get(name, np.zeros_like(array)), err_msg=name)
    np.testing.assert_array_equal(logits(model.config, model.weights, IDS), logits(config, weights, IDS))


def test_gpt2_s_projections_are_in_by_out_and_join_q_k_and_v(gpt2: Path) -> None:
    theirs, ours = tensors(gpt2), rough_arrays(GPT2)
    assert theirs["h.1.attn.c_attn.weight"].shape == (32, 96)
    np.testing.assert_array_equal(theirs["h.1.attn.c_attn.weight"][:, 32:64].T, ours["blocks.1.attn.k_proj.weight"])
    assert "lm_head.weight" not in theirs


def test_bfloat16_is_written_rounded_and_read_exactly(tmp_path: Path) -> None:
    weights = rough_arrays(LLAMA)
    export_model(tmp_path, LLAMA, weights, dtype="bfloat16")
    assert settings(tmp_path)["dtype"] == settings(tmp_path)["torch_dtype"] == "bfloat16"
    assert_same(import_model(tmp_path).weights, {name: widened(narrowed(array)) for name, array in weights.items()})


@given(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100))
@example(1 + 2**-8)  # half way: down to the even one
@example(1 + 3 * 2**-8)  # half way: up
def test_bfloat16_is_the_nearest(value: float) -> None:
    bits = int(narrowed(np.array([value], np.float32))[0])
    candidates = widened(np.array([max(bits & 0x7FFF, 1) - 1, bits & 0x7FFF, (bits & 0x7FFF) + 1], np.uint16))
    errors = np.abs(candidates.astype(np.float64) - abs(value))
    assert errors[1] == errors.min()
    assert list(errors).count(errors[1]) == 1 or bits % 2 == 0 or bits & 0x7FFF == 0


def test_float16_and_bfloat16_files_are_widened(gpt2: Path) -> None:
    arrays = tensors(gpt2)
    write_other(gpt2, {name: array.astype(np.float16) for name, array in arrays.items()}, "F16")
    expected = rough_arrays(GPT2)
    assert_same(import_model(gpt2).weights, {n: a.astype(np.float16).astype(np.float32) for n, a in expected.items()})
    write_other(gpt2, {name: narrowed(array) for name, array in arrays.items()}, "BF16")
    assert_same(import_model(gpt2).weights, {n: widened(narrowed(a)) for n, a in expected.items()})


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_shards_a_prefix_and_buffers_change_nothing(name: str, tmp_path: Path) -> None:
    config = MODELS[name].model_copy(update={"tie_embeddings": True})
    export_model(tmp_path, config, rough_arrays(config))
    arrays, prefix = tensors(tmp_path), architecture_of(config).prefix
    bare = {n.removeprefix(prefix): a for n, a in arrays.items()} | {
        "lm_head.weight": rough_arrays(config)["embed.weight"]
    }
    mask = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32), "h.1.attn.masked_bias": np.ones(1, np.float32)}
    more = mask if name == "gpt2" else {"layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    for names in (bare | more, {n if n == "lm_head.weight" else prefix + n: a for n, a in (bare | more).items()}):
        items = list(names.items())
        shards = {"model-1.safetensors": dict(items[:5]), "model-2.safetensors": dict(items[5:])}
        for file, part in shards.items():
            write_tensors(tmp_path, part, file)
        weight_map = {n: file for file, part in shards.items() for n in part}
        (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (tmp_path / WHOLE).unlink(missing_ok=True)
        assert_same(import_model(tmp_path).weights, rough_arrays(config))


def test_settings_of_older_and_newer_transformers_are_read(gpt2: Path, llama: Path) -> None:
    change(gpt2, n_inner=None, activation_function="gelu_pytorch_tanh", tie_word_embeddings=..., n_ctx=..., dtype=...)
    assert import_model(gpt2).config == GPT2.model_copy(update={"d_ff": 128})
    for theirs in (
        {"rope_theta": 5e5, "rope_parameters": ..., "head_dim": ..., "mlp_bias": ..., "attention_bias": ...},
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_parameters": ..., "rope_scaling": None},
        {"rope_theta": 500_000, "rope_parameters": {"rope_theta": 5e5, "type": "default"}},
        {"rope_theta": 5e5, "rope_parameters": ..., "model_type": "mistral", "sliding_window": None},
    ):
        original = (llama / CONFIG).read_bytes()
        change(llama, **theirs)
        assert import_model(llama).config.rope_theta == 5e5
        (llama / CONFIG).write_bytes(original)
    change(llama, rope_theta=..., rope_parameters=..., rms_norm_eps=...)
    model = import_model(llama).config
    assert (model.rope_theta, model.norm_eps) == (10_000.0, 1e-6)
