"""A model as a folder of Hugging Face's `transformers`, out and in.

    export_model:  config, weights, tokenizer files -> <folder>.new -> <folder>
    import_model:  <folder> -> config, weights, where the tokenizer is

    config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

Two architectures are known: gpt2 (lm_core.interchange.gpt2) and llama (lm_core.interchange.llama). What a model is
trained with (dropout, initial values) is not read back.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import Dtype, ModelConfig
from lm_core.errors import UserError
from lm_core.interchange import tokenizer
from lm_core.interchange.architecture import Architecture, pack, unpack
from lm_core.interchange.gpt2 import GPT2
from lm_core.interchange.keys import Keys, read_object
from lm_core.interchange.llama import LLAMA
from lm_core.interchange.tensor_file import WHOLE, find_tensors, safetensors_bytes
from lm_core.run.files import write_whole

CONFIG, GENERATION = "config.json", "generation_config.json"
_WRITTEN = (CONFIG, GENERATION, WHOLE, *tokenizer.NAMES)
"""`config.json` is the first to go: without it a folder is no model."""
_MODEL_TYPES = {"gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA}


@dataclass(frozen=True)
class ImportedModel:
    """What a folder holds."""

    config: ModelConfig
    weights: dict[str, NDArray[np.float32]]
    """By the names of the parameter table, in its order."""
    tokenizer: Path | None
    """Its `tokenizer.json`, where there is one."""


def export_model(
    folder: str | Path,
    config: ModelConfig,
    weights: Mapping[str, NDArray[Any]],
    *,
    tokenizer_files: Mapping[str, bytes] | None = None,
    eos_id: int | None = None,
    dtype: Dtype = "float32",
) -> None:
    """Write a folder that `transformers` and, for Llama, `mlx-lm` load.

    A folder that an earlier export wrote is replaced; it has no `config.json` while that lasts.

    Args:
        folder: where to; one that holds anything that is no file of an export is left alone.
        config: of the model. Its vocab_size may be larger than the tokenizer's.
        weights: by the names of the parameter table.
        tokenizer_files: name -> content, with `tokenizer.json` among them for `AutoTokenizer` to load.
        eos_id: the id that ends a text.
        dtype: of the values in the file; bfloat16 is rounded to the nearest.

    Raises:
        UserError: for a model that neither architecture expresses, weights that are not the config's, a folder that
            holds something else or cannot be written.
    """
    folder = Path(folder)
    if eos_id is not None and not 0 <= eos_id < config.vocab_size:
        raise UserError(f"eos_id {eos_id} is outside the vocabulary of {config.vocab_size:,}")
    architecture = architecture_of(config)
    ends = {} if eos_id is None else {"eos_token_id": eos_id, "pad_token_id": eos_id}
    files = {
        WHOLE: safetensors_bytes(pack(architecture, config, weights), dtype),
        GENERATION: _json(ends),
        **tokenizer.complete(tokenizer_files or {}, config, eos_id),
        CONFIG: _json(_settings(architecture, config, eos_id, dtype)),
    }
    _replace(folder, files)


def import_model(folder: str | Path) -> ImportedModel:
    """Read a folder that `transformers` or `export_model` wrote; float16 and bfloat16 are widened, exactly.

    Raises:
        UserError: for files that are missing, cut or malformed, and for what this package's model cannot do.
    """
    folder = Path(folder)
    keys = Keys(folder / CONFIG, read_object(folder / CONFIG))
    architecture = keys.choice("model_type", None, _MODEL_TYPES)
    keys.only("quantization_config", None)
    keys.only("quantization", None)
    config = architecture.config_of(keys)
    weights = unpack(architecture, config, find_tensors(folder), folder)
    path = folder / tokenizer.TOKENIZER
    return ImportedModel(config, weights, path if path.is_file() else None)


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that expresses a config.

    Raises:
        UserError: when there is none; it names the fields that stand in the way.
    """
    obstacles = {architecture: architecture.obstacles(config) for architecture in (GPT2, LLAMA)}
    for architecture, fields in obstacles.items():
        if not fields:
            return architecture
    each = "; ".join(f"{one.model_type} cannot have {', '.join(fields)}" for one, fields in obstacles.items())
    raise UserError(f"the model is none that can be exported: {each}")


def _settings(architecture: Architecture, config: ModelConfig, eos_id: int | None, dtype: Dtype) -> dict[str, Any]:
    return {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": config.vocab_size,
        **architecture.settings(config),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        # Said even where there is none: transformers' defaults are the ids of GPT-2's and Llama's own vocabularies.
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same in transformers before 4.56
    }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files beside, where a full disk harms nothing, then move them in; `config.json` goes first and last."""
    try:
        folder = folder.resolve()
        _refuse_others(folder)
        _refuse_no_export(folder)
        beside = folder.with_name(folder.name + ".new")
        _refuse_others(beside)
        for place in (folder, beside):
            place.mkdir(parents=True, exist_ok=True)
        config = files.pop(CONFIG)
        for name, data in files.items():
            write_whole(beside / name, data)
        for name in _WRITTEN:
            (folder / name).unlink(missing_ok=True)
        for name in files:
            (beside / name).replace(folder / name)
        write_whole(folder / CONFIG, config)
        _remove(beside)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from None


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with a file that no export writes: it is somebody's."""
    known = {name + end for name in _WRITTEN for end in ("", ".new")}
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name not in known or not path.is_file():
            raise UserError(f"{folder} holds {path.name!r}, which is no file of an export: name another folder")


def _refuse_no_export(folder: Path) -> None:
    """Refuse a folder with files and no model: one with a tokenizer alone has only names that an export has too."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and not names & {CONFIG, f"{CONFIG}.new", "model.safetensors"}:
        raise UserError(f"{folder} holds {min(names)!r} and no model: name another folder")


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()  # what a killed export left
    folder.rmdir()
