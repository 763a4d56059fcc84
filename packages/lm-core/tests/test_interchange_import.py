"""What an import refuses, in one line that names the file and the key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.interchange.folder import CONFIG, import_model
from lm_core.interchange.tensor_file import INDEX, WHOLE
from lm_core.testing import rough_arrays

from .small_exports import (
    LLAMA,
    Arrays,
    assert_same,
    change,
    tensors,
    write_other,
    write_tensors,
)


def refused(folder: Path, *words: str) -> None:
    """The folder is refused, in one line with all of the words."""
    with pytest.raises(UserError) as caught:
        import_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "bert"}, {"activation_function": "relu"}, {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True}, {"add_cross_attention": True}, {"n_embd": 0}, {"n_embd": 32.0},
        {"n_head": True}, {"n_layer": "2"}, {"layer_norm_epsilon": -1e-5}, {"layer_norm_epsilon": float("nan")},
        {"tie_word_embeddings": 1}, {"tie_word_embeddings": None}, {"model_type": None},
        {"quantization_config": {"bits": 4}}, {"n_layer": 10**9},
    ],
)  # fmt: skip
def test_a_gpt2_setting_that_is_not_supported_is_refused(changes: dict[str, Any], gpt2: Path) -> None:
    change(gpt2, **changes)
    [(key, value)] = changes.items()
    refused(gpt2, *(["1,000,000,000 layers"] if value == 10**9 else [CONFIG, f"{key} = {json.dumps(value)}"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"}, {"mlp_bias": True}, {"head_dim": 16}, {"sliding_window": 4096},
        {"layer_types": ["full_attention", "sliding_attention"]}, {"rope_theta": 0}, {"partial_rotary_factor": 0.5},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn"}}, {"rope_parameters": "default"}, {"rope_traditional": True},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, {"rms_norm_eps": "small"},
        {"quantization": {"bits": 4}},
    ],
)  # fmt: skip
def test_a_llama_setting_that_is_not_supported_is_refused(changes: dict[str, Any], llama: Path) -> None:
    change(llama, **changes)
    [(key, value)] = changes.items()
    refused(llama, CONFIG, f"{key} = {json.dumps(value)}"[:60], "supported, only")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "mistral"}, "sliding_window"),
        ({"model_type": ...}, "no key 'model_type'"),
        ({"model_type": "opt"}, "gpt2, llama, mistral"),
        ({"hidden_size": ...}, "no key 'hidden_size'"),
        ({"rope_theta": 5e5}, "given twice"),
        ({"num_attention_heads": 3, "head_dim": ...}, "hidden_size / num_attention_heads = 32 / 3"),
        ({"num_key_value_heads": 3}, "n_kv_heads 3 does not divide"),
        ({"num_attention_heads": 32, "num_key_value_heads": 1, "head_dim": 1}, "even head size"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes: dict[str, Any], word: str, llama: Path) -> None:
    change(llama, **changes)
    refused(llama, CONFIG, word)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_malformed_is_refused(content: bytes, llama: Path) -> None:
    original = (llama / CONFIG).read_bytes()
    (llama / CONFIG).write_bytes(content)
    refused(llama, CONFIG)
    (llama / CONFIG).write_bytes(original)
    (llama / WHOLE).unlink()
    (llama / INDEX).write_bytes(content)
    refused(llama, INDEX)


def test_files_that_are_missing_are_named(tmp_path: Path, llama: Path) -> None:
    refused(tmp_path / "nowhere", CONFIG, "No such file")
    (llama / WHOLE).unlink()
    refused(llama, WHOLE, INDEX)
    (llama / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(llama, "pytorch_model.bin", "pickle", "save_pretrained")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, [INDEX, "weight_map"]),
        ({"weight_map": {"a": "gone.safetensors"}}, ["gone.safetensors"]),
        ({"weight_map": {"a": "../llama/part.safetensors"}}, [INDEX, "'a'", "not a file name"]),
        ({"weight_map": {"a": ""}}, ["cannot read"]),
        ({"weight_map": {"a": ".."}}, ["cannot read"]),
        ({"weight_map": {"a": "\0"}}, ["cannot read"]),
        ({"weight_map": {"a": 1}}, [INDEX, "'a'", "not a file name"]),
        ({"weight_map": {"lm_head.bias": "part.safetensors"}}, ["part.safetensors", "'lm_head.bias'"]),
    ],
)
def test_an_index_that_does_not_fit_is_refused(index: dict[str, Any], words: list[str], llama: Path) -> None:
    (llama / WHOLE).rename(llama / "part.safetensors")
    (llama / INDEX).write_text(json.dumps(index))
    refused(llama, *words)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], ["cut"]),
        (lambda data: data + b"\0", ["cut or not"]),
        (lambda data: data[:100], ["cut"]),
        (lambda data: b"", ["cut"]),
        (lambda data: b"\xff" * 8 + data[8:], ["cut or not"]),
        (lambda data: data.replace(b'"shape"', b'"shabe"', 1), ["cut or not"]),
        (lambda data: data.replace(b"model.norm.weight", b"model.norm.weighs"), ["'norm.weight'", "missing"]),
        (lambda data: data.replace(b'"model.norm.weight"', b'      "norm.weight"'), []),
    ],
)
def test_a_safetensors_file_that_is_spoilt_is_refused(
    spoil: Callable[[bytes], bytes], words: list[str], llama: Path
) -> None:
    (llama / WHOLE).write_bytes(spoil((llama / WHOLE).read_bytes()))
    if words:
        refused(llama, *words)
    else:  # the same name, said otherwise
        assert_same(import_model(llama).weights, rough_arrays(LLAMA))


def test_tensors_that_are_not_the_config_s_are_named(gpt2: Path) -> None:
    arrays = tensors(gpt2)
    some = np.ones(3, np.float32)
    spoilt: list[tuple[Arrays, list[str]]] = [
        ({**arrays, "h.2.ln_1.weight": some}, [WHOLE, "'h.2.ln_1.weight'", "is not part of the model"]),
        ({**arrays, "transformer.wpe.weight": some}, ["'wpe.weight'", "'transformer.wpe.weight'", "twice"]),
        ({**arrays, "lm_head.weight": -arrays["wte.weight"]}, ["tie_word_embeddings", "lm_head.weight"]),
        ({**arrays, "lm_head.weight": some}, ["lm_head.weight", "(3,)", "(31, 32)"]),
        ({**arrays, "ln_f.bias": some}, [WHOLE, "'ln_f.bias'", "(3,)", "(32,)"]),
        ({**arrays, "ln_f.bias": np.full(32, np.inf, np.float32)}, [WHOLE, "'ln_f.bias'", "not finite"]),
        ({n: a for n, a in arrays.items() if n != "h.1.mlp.c_fc.bias"}, ["'h.1.mlp.c_fc.bias'", "missing"]),
    ]
    for changed, words in spoilt:
        write_tensors(gpt2, changed)
        refused(gpt2, *words)
    write_other(gpt2, {name: array.astype(np.float64) for name, array in arrays.items()}, "F64")
    refused(gpt2, WHOLE, "'wte.weight'", "F64", "bfloat16")
    write_tensors(gpt2, arrays)
    change(gpt2, tie_word_embeddings=False)
    refused(gpt2, "'lm_head.weight'", "missing")
