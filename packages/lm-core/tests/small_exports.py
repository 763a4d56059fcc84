"""Small models as folders of `transformers`, and their files read and changed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.interchange.folder import CONFIG
from lm_core.interchange.tensor_file import WHOLE, entries_of, safetensors_bytes

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
