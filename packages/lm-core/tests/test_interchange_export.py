"""What an export refuses, in one line, and what it leaves of the folder that it writes to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.interchange.folder import CONFIG, GENERATION, export_model, import_model
from lm_core.interchange.tensor_file import WHOLE
from lm_core.testing import rough_arrays

from .small_exports import (
    GPT2,
    LLAMA,
    TOKENIZER,
    Arrays,
    assert_same,
    settings,
)

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
