"""Folders of `transformers`, out and in: to the bit, and every refusal in one line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.interchange.folder import CONFIG, GENERATION, architecture_of, export_model, import_model
from lm_core.interchange.tensor_file import INDEX, WHOLE, entries_of, narrowed, safetensors_bytes, widened
from lm_core.reference.model import logits
from lm_core.testing import rough_arrays

Arrays = dict[str, NDArray[np.float32]]
GPT2 = ModelConfig(vocab_size=31, seq_len=24, d_model=32, n_layers=2, n_heads=4, tie_embeddings=True)
LLAMA = GPT2.model_copy(
    update={
        "n_kv_heads": 2,
        "norm": "rms",
        "mlp": "swiglu",
        "positions": "rope",
        "bias": False,
        "tie_embeddings": False,
    }
)
MODELS: dict[str, ModelConfig] = {
    "gpt2": GPT2,
    "gpt2-untied": GPT2.model_copy(update={"tie_embeddings": False, "mlp": "gelu", "norm_eps": 1e-6, "d_ff": 80}),
    "llama": LLAMA.model_copy(update={"rope_theta": 500_000.0, "d_ff": 80}),
    "llama-tied": LLAMA.model_copy(update={"tie_embeddings": True, "n_kv_heads": 1}),
    "llama-bias": LLAMA.model_copy(update={"bias": True, "n_kv_heads": 4}),
}
TOKENIZER = json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<end>"}]}).encode()
IDS = np.arange(20).reshape(2, 10) * 7 % 31


def assert_same(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> None:
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype == np.float32
        assert array.shape == theirs[name].shape
        assert array.tobytes() == theirs[name].tobytes(), name


def tensors(folder: Path, file: str = WHOLE) -> Arrays:
    return {name: entry.read() for name, entry in entries_of(folder / file).items()}


def write_tensors(folder: Path, arrays: Arrays, file: str = WHOLE) -> None:
    (folder / file).write_bytes(safetensors_bytes(arrays, "float32"))


def write_other(folder: Path, arrays: Mapping[str, NDArray[Any]], code: str) -> None:
    """A safetensors file of another type, whose bits are those of the arrays."""
    header, parts, end = dict[str, Any](), list[bytes](), 0
    for name, array in arrays.items():
        parts.append(array.tobytes())
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    (folder / WHOLE).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def settings(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONFIG).read_bytes()))


def change(folder: Path, **changes: Any) -> None:
    """Change keys of `config.json`; `...` takes one away."""
    merged = settings(folder) | changes
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in merged.items() if value is not ...}))


def refused(folder: Path, *words: str) -> None:
    """The folder is refused, in one line with all of the words."""
    with pytest.raises(UserError) as caught:
        import_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    export_model(tmp_path / "gpt2", GPT2, rough_arrays(GPT2))
    return tmp_path / "gpt2"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    export_model(tmp_path / "llama", LLAMA, rough_arrays(LLAMA))
    return tmp_path / "llama"


# There and back


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


# The tokenizer


def test_the_tokenizer_lies_beside_with_its_end(tmp_path: Path) -> None:
    files = {"tokenizer.json": TOKENIZER, "merges.txt": b"#version: 0.2\n"}
    export_model(tmp_path, GPT2, rough_arrays(GPT2), tokenizer_files=files, eos_ids=[2])
    model = import_model(tmp_path)
    assert model.tokenizer == tmp_path / "tokenizer.json"
    assert model.tokenizer.read_bytes() == TOKENIZER
    said = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert (said["eos_token"], said["model_max_length"]) == ("<end>", 24)
    assert settings(tmp_path)["eos_token_id"] == json.loads((tmp_path / GENERATION).read_bytes())["eos_token_id"] == 2
    assert settings(tmp_path)["bos_token_id"] is None  # and not transformers' default
    assert model.eos_ids == (2,)
    given = {"tokenizer.json": TOKENIZER, "tokenizer_config.json": b"{}"}
    export_model(tmp_path, GPT2, rough_arrays(GPT2), tokenizer_files=given, overwrite=True)
    assert (tmp_path / "tokenizer_config.json").read_bytes() == b"{}"
    assert not (tmp_path / "merges.txt").exists()  # of the export before


@pytest.mark.parametrize(
    ("files", "eos_id", "word"),
    [
        ({"tokenizer.json": TOKENIZER.replace(b'"id": 2', b'"id": 5')}, 3, "eos_id 3 is not a token of"),
        ({"tokenizer.json": TOKENIZER}, 31, "outside the vocabulary"),
        ({"tokenizer.json": TOKENIZER}, -1, "outside the vocabulary"),
        ({"tokenizer.json": TOKENIZER.replace(b'"b": 1', b'"b": 31')}, None, "tokenizer has 32 ids"),
        ({"tokenizer.json": b"{}"}, None, "malformed"),
        ({"tokenizer.json": b"\xff"}, None, "malformed"),
        ({"../tokenizer.json": TOKENIZER}, None, "is not a tokenizer file"),
        ({CONFIG: b"{}"}, None, "is not a tokenizer file"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    files: dict[str, bytes], eos_id: int | None, word: str, tmp_path: Path
) -> None:
    ends = [] if eos_id is None else [eos_id]
    with pytest.raises(UserError, match=word):
        export_model(tmp_path / "new", GPT2, rough_arrays(GPT2), tokenizer_files=files, eos_ids=ends)
    assert not list(tmp_path.iterdir())


# What cannot be exported, and where to


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": "rope"}, ["gpt2 cannot have positions = 'rope'", "llama cannot have norm = 'layer'"]),
        ({"positions": "none"}, ["positions = 'none'"]),
        ({"positions": "sinusoidal"}, ["gpt2 cannot have positions = 'sinusoidal'", "llama cannot have"]),
        ({"norm": "rms"}, ["norm = 'rms'", "llama cannot have mlp = 'gelu_tanh', positions = 'learned'"]),
        ({"mlp": "swiglu"}, ["mlp = 'swiglu'"]),
        ({"n_kv_heads": 2}, ["n_kv_heads = 2"]),
        ({"head_bias": True, "tie_embeddings": False}, ["head_bias = True"]),
    ],
)
def test_what_no_architecture_expresses_is_refused(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    config = GPT2.model_copy(update=changes)
    with pytest.raises(UserError) as caught:
        export_model(tmp_path / "new", config, rough_arrays(config))
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda w: w.pop("norm.bias"), "lack 'norm.bias'"),
        (lambda w: w.update({"norm.beta": w["norm.bias"]}), "unknown 'norm.beta'"),
        (lambda w: w.update({"norm.bias": w["norm.bias"][1:]}), "'norm.bias' has shape"),
        (lambda w: w["norm.bias"].__setitem__(0, np.nan), "'norm.bias' holds values that are not finite"),
    ],
)
def test_weights_that_are_not_the_config_s_are_refused(
    spoil: Callable[[Arrays], object], word: str, tmp_path: Path
) -> None:
    weights = rough_arrays(GPT2)
    spoil(weights)
    with pytest.raises(UserError, match=word):
        export_model(tmp_path / "new", GPT2, weights)
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_an_earlier_one_when_it_is_asked_to_and_nothing_else(llama: Path) -> None:
    beside = llama.with_name("llama.new")
    beside.mkdir()
    (beside / WHOLE).write_bytes(b"mine, although it has a name that an export has")
    (llama / f".{WHOLE}.{'0' * 16}.new").write_bytes(b"of an export that was killed")
    with pytest.raises(UserError, match="holds a model already: name another folder, or set overwrite"):
        export_model(llama, GPT2, rough_arrays(GPT2))
    assert_same(import_model(llama).weights, rough_arrays(LLAMA))
    export_model(llama, GPT2, rough_arrays(GPT2), overwrite=True)
    assert_same(import_model(llama).weights, rough_arrays(GPT2))
    assert (beside / WHOLE).read_bytes() == b"mine, although it has a name that an export has"
    assert {path.name for path in llama.iterdir()} == {CONFIG, GENERATION, WHOLE}
    for name in ("notes.txt", "model-00001-of-00002.safetensors"):
        (llama / name).write_text("mine")
        before = {path: path.read_bytes() for path in llama.iterdir()}
        with pytest.raises(UserError, match=f"holds '{name}'"):
            export_model(llama, LLAMA, rough_arrays(LLAMA), overwrite=True)
        assert {path: path.read_bytes() for path in llama.iterdir()} == before
        (llama / name).unlink()
    (llama / "merges.txt").mkdir()
    with pytest.raises(UserError, match=r"holds 'merges\.txt'"):
        export_model(llama, LLAMA, rough_arrays(LLAMA), overwrite=True)


def test_a_folder_with_a_tokenizer_alone_is_not_an_earlier_export(tmp_path: Path) -> None:
    """Its names are those that an export writes too, but it is somebody's tokenizer."""
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"and no model: name another folder"):
        export_model(tmp_path, LLAMA, rough_arrays(LLAMA), overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"] * 3


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_disk_that_is_full_leaves_the_earlier_export(llama: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    left = [nth]

    def full(_: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in llama.iterdir()}
    monkeypatch.setattr("lm_core.interchange.folder.flush_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_model(llama, GPT2, rough_arrays(GPT2), overwrite=True)
    assert {path: path.read_bytes() for path in llama.iterdir()} == before


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        export_model(tmp_path / "file", GPT2, rough_arrays(GPT2))
    assert (tmp_path / "file").read_text() == "mine"


# What cannot be imported


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
