"""A model as a folder of Hugging Face's `transformers`, out and in.

    export_model:  config, weights, tokenizer files -> scratch files in <folder> -> their names
    import_model:  <folder> -> config, weights, where the tokenizer is, what ends a text

    config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json

Two architectures are known: gpt2 (lm_core.interchange.gpt2) and llama (lm_core.interchange.llama). What a model is
trained with (dropout, initial values) is not read back.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.disk.files import flush_file, flush_folder, make_folder
from lm_core.disk.untrusted import is_scratch, scratch_file
from lm_core.errors import UserError
from lm_core.interchange import tokenizer
from lm_core.interchange.architecture import Architecture, pack, unpack, without_padding
from lm_core.interchange.gpt2 import GPT2
from lm_core.interchange.ignored import IGNORED
from lm_core.interchange.keys import Keys, read_object
from lm_core.interchange.llama import LLAMA
from lm_core.interchange.tensor_file import WHOLE, FileDtype, find_tensors, safetensors_bytes

CONFIG, GENERATION = "config.json", "generation_config.json"
_WRITTEN = (CONFIG, GENERATION, WHOLE, *tokenizer.NAMES)
"""`config.json` is removed first: without it a folder is not a model."""
_MODEL_TYPES = {"gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA}


@dataclass(frozen=True)
class ImportedModel:
    """A model read from a folder."""

    config: ModelConfig
    weights: dict[str, NDArray[np.float32]]
    """Arrays by the names of the parameter table, in its order."""
    tokenizer: Path | None
    """Its `tokenizer.json`, where there is one."""
    eos_ids: tuple[int, ...] = ()
    """The ids that end a text, by `generation_config.json` and `config.json`; none where neither says so."""


def export_model(
    folder: str | Path,
    config: ModelConfig,
    weights: Mapping[str, NDArray[Any]],
    *,
    tokenizer_files: Mapping[str, bytes] | None = None,
    eos_ids: Sequence[int] = (),
    vocab_size: int | None = None,
    dtype: FileDtype = "float32",
    overwrite: bool = False,
) -> None:
    """Write a folder that `transformers` and, for Llama, `mlx-lm` load.

    Args:
        folder: where to; one that holds anything that is not a file of an export is left alone.
        config: of the model. Its vocab_size may be larger than the tokenizer's: the ids beyond are left out, since
            other programs would draw them.
        weights: by the names of the parameter table.
        tokenizer_files: name -> content, with `tokenizer.json` among them for `AutoTokenizer` to load.
        eos_ids: the ids that end a text; the first is the one that stands between texts.
        vocab_size: how many ids the tokenizer has; by default those of `tokenizer.json`, all where there is none.
        dtype: of the values in the file; bfloat16 is rounded to the nearest.
        overwrite: replace the model that the folder holds; it has no `config.json` while that lasts.

    Raises:
        UserError: for a model that neither architecture expresses, weights that are not the config's, a folder that
            holds something else or cannot be written.
    """
    folder = Path(folder)
    architecture = architecture_of(config)
    files = tokenizer_files or {}
    config, weights = without_padding(config, weights, vocab_size or tokenizer.size(files) or config.vocab_size)
    for eos_id in eos_ids:
        if not 0 <= eos_id < config.vocab_size:
            raise UserError(f"eos_id {eos_id} is outside the vocabulary of {config.vocab_size:,}")
    end = None if not eos_ids else eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    ends = {"eos_token_id": end, "pad_token_id": eos_ids[0]} if eos_ids else {}
    written = {
        WHOLE: safetensors_bytes(pack(architecture, config, weights), dtype),
        GENERATION: _json(ends),
        **tokenizer.complete(files, config, eos_ids),
        CONFIG: _json(_settings(architecture, config, end, dtype)),
    }
    _replace(folder, written, overwrite=overwrite)


def import_model(folder: str | Path) -> ImportedModel:
    """Read a folder that `transformers` or `export_model` wrote; float16 and bfloat16 are widened, exactly.

    Raises:
        UserError: for files that are missing, cut or malformed, and for what this package's model cannot do.
    """
    folder = Path(folder)
    values = read_object(folder / CONFIG)
    architecture = Keys(folder / CONFIG, values).choice("model_type", None, _MODEL_TYPES)
    keys = Keys(folder / CONFIG, values, architecture.aliases)
    _refuse_what_is_not_causal_and_full(keys)
    config = architecture.config_of(keys)
    eos_ids = tuple(i for i in _eos_ids(folder, keys) if i < config.vocab_size)
    keys.refuse_others(IGNORED.union(architecture.ignored))
    weights = unpack(architecture, config, find_tensors(folder), folder)
    path = folder / tokenizer.TOKENIZER
    return ImportedModel(config, weights, path if path.is_file() else None, eos_ids)


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that expresses a config.

    Raises:
        UserError: when there is none; it names the fields that stand in the way.
    """
    obstacles = [(architecture, architecture.obstacles(config)) for architecture in (GPT2, LLAMA)]
    for architecture, fields in obstacles:
        if not fields:
            return architecture
    each = "; ".join(f"{one.model_type} cannot have {', '.join(fields)}" for one, fields in obstacles)
    raise UserError(f"this model cannot be exported: {each}")


def _refuse_what_is_not_causal_and_full(keys: Keys) -> None:
    """Refuse options of any model of transformers 5: other masks, other parts, other numbers."""
    keys.only("quantization_config", None)
    keys.only("quantization", None)
    keys.only("is_causal", True)
    keys.only("is_encoder_decoder", False)
    keys.only("add_cross_attention", False)
    keys.only("pruned_heads", {}, None)
    keys.only("per_layer_config", None, {})
    keys.only("attention_chunk_size", None)
    keys.only("sliding_window", None)
    kinds = keys.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise keys.refusal("layer_types", "full_attention")


def _eos_ids(folder: Path, keys: Keys) -> tuple[int, ...]:
    """The ids at any of which a text ends: those of both files."""
    ids = keys.ids("eos_token_id")
    if (folder / GENERATION).exists():
        ids += Keys(folder / GENERATION, read_object(folder / GENERATION)).ids("eos_token_id")
    return tuple(dict.fromkeys(ids))


def _settings(
    architecture: Architecture, config: ModelConfig, end: int | list[int] | None, dtype: FileDtype
) -> dict[str, Any]:
    return {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": config.vocab_size,
        **architecture.settings(config),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        # Said even where there is none: transformers' defaults are the ids of GPT-2's and Llama's own vocabularies.
        "bos_token_id": None,
        "eos_token_id": end,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same in transformers before 4.56
    }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _replace(folder: Path, files: dict[str, bytes], *, overwrite: bool) -> None:
    """Write all files beside, where a full disk harms nothing, then name them; `config.json` goes first, comes last."""
    try:
        folder = folder.resolve()
        _refuse_others(folder, overwrite=overwrite)
        make_folder(folder)
        with ExitStack() as stack:
            for name in (CONFIG, *(name for name in files if name != CONFIG)):  # what is entered first is named last
                file = stack.enter_context(scratch_file(folder / name))
                file.write(files[name])
                file.flush()
                flush_file(file.fileno())
            for name in _WRITTEN:
                (folder / name).unlink(missing_ok=True)
        flush_folder(folder)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from None


def _refuse_others(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder with files that no export writes, or with a model, unless it is to be replaced."""
    paths = sorted(folder.iterdir()) if folder.exists() else []
    names = [path.name for path in paths if not is_scratch(path.name)]
    for path in paths:
        if not path.is_file() or not (path.name in _WRITTEN or is_scratch(path.name)):
            raise UserError(f"{folder} holds {path.name!r}, which is not a file of an export: name another folder")
    if names and not {CONFIG, WHOLE} & {*names}:  # one with a tokenizer alone has only names that an export has too
        raise UserError(f"{folder} holds {names[0]!r} and no model: name another folder")
    if names and not overwrite:
        raise UserError(f"{folder} holds a model already: name another folder, or set overwrite to replace it")
