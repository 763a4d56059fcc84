"""Description of an architecture of `transformers`, and the conversion of its tensors from ours and back.

A tensor of theirs is one of ours, or several joined along their outputs, as it is or transposed:

    q_proj, k_proj, v_proj [D, D] -> join [3D, D] -> transpose [D, 3D] = h.0.attn.c_attn.weight

Axes: D model. Ours are [out, in] (lm_core.model.parameters).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.interchange.keys import Keys
from lm_core.interchange.tensor_file import Entries, Entry
from lm_core.model.parameters import Table, parameter_table

Arrays = dict[str, NDArray[np.float32]]
HEAD = "lm_head.weight"
"""The one tensor that never has a prefix."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of theirs."""

    name: str
    """Without the architecture's prefix."""
    ours: tuple[str, ...]
    """Our parameters that it joins, in order."""
    transposed: bool = False
    """Whether it is [in, out]."""

    def shape(self, table: Table) -> tuple[int, ...]:
        """Its shape, by the shapes of ours."""
        shapes = [table[name].shape for name in self.ours]
        joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        return joined[::-1] if self.transposed else joined


@dataclass(frozen=True)
class Architecture:
    """A decoder of `transformers`."""

    model_type: str
    """Its name in `config.json`."""
    class_name: str
    """Its class in `transformers`."""
    prefix: str
    """Optional prefix of tensor names."""
    buffers: re.Pattern[str]
    """Tensors that older files hold and that say nothing."""
    obstacles: Callable[[ModelConfig], list[str]]
    """The fields of a config that it cannot express, with their values."""
    settings: Callable[[ModelConfig], dict[str, Any]]
    """A config as keys of `config.json`."""
    config_of: Callable[[Keys], ModelConfig]
    """The keys of `config.json` as a config."""
    layout: Callable[[ModelConfig], Iterator[Tensor]]
    """Every tensor, but for the head."""
    bare_if_tied: bool = False
    """Whether a file without a head is written without the prefix."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of keys of `config.json`: alias -> key."""
    ignored: tuple[str, ...] = ()
    """Keys of `config.json` that it does not read, besides those that none reads."""


def tensors_of(architecture: Architecture, config: ModelConfig) -> Iterator[Tensor]:
    """Every tensor of a model, with the head where it is not tied."""
    yield from architecture.layout(config)
    if not config.tie_embeddings:
        yield Tensor(HEAD, (HEAD,))


def without_padding(
    config: ModelConfig, weights: Mapping[str, NDArray[Any]], vocab_size: int
) -> tuple[ModelConfig, Mapping[str, NDArray[Any]]]:
    """The model whose vocabulary is the first `vocab_size` ids of this one's.

    Raises:
        UserError: when the weights are not those of the config or not finite, or its vocabulary is too small.
    """
    if vocab_size > config.vocab_size:
        raise UserError(f"the tokenizer has {vocab_size:,} ids, and the model's vocab_size is {config.vocab_size:,}")
    _check(config, weights)
    rows = ("embed.weight", "lm_head.weight", "lm_head.bias")
    cut = {name: array[:vocab_size] if name in rows else array for name, array in weights.items()}
    return config.model_copy(update={"vocab_size": vocab_size}), cut


def pack(architecture: Architecture, config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Arrays:
    """Our weights under their names, float32. Where they have a bias and we have none, it is 0."""
    table = parameter_table(config.model_copy(update={"bias": True}))
    bare = architecture.bare_if_tied and config.tie_embeddings
    prefix = "" if bare else architecture.prefix
    arrays: Arrays = {}
    for tensor in tensors_of(architecture, config):
        parts = [weights[name] if name in weights else np.zeros(table[name].shape, np.float32) for name in tensor.ours]
        joined = np.concatenate(parts).astype(np.float32)
        name = tensor.name if tensor.name == HEAD else prefix + tensor.name
        arrays[name] = np.ascontiguousarray(joined.T if tensor.transposed else joined)
    return arrays


def unpack(architecture: Architecture, config: ModelConfig, entries: Entries, folder: Path) -> Arrays:
    """Their tensors under our names, in the order of the table.

    Raises:
        UserError: for a tensor that is missing, left over, of another shape or not readable.
    """
    if config.n_layers > len(entries):  # before a table of that many layers is made
        raise UserError(
            f"{folder}: config.json says {config.n_layers:,} layers, and there are {len(entries):,} tensors"
        )
    table, left = parameter_table(config), _by_bare_name(architecture, entries)
    weights: Arrays = {}
    for tensor in tensors_of(architecture, config):
        if tensor.name not in left:
            raise UserError(f"{folder}: tensor {tensor.name!r} is missing, which config.json asks for")
        array = _read(left.pop(tensor.name), tensor.shape(table))
        weights.update(_split(tensor, array.T if tensor.transposed else array, table))
    if config.tie_embeddings and HEAD in left:
        _check_tied(left.pop(HEAD), weights["embed.weight"])
    for entry in left.values():
        raise UserError(f"{entry.path}: tensor {entry.name!r} is not part of the model that config.json describes")
    return {name: weights[name] for name in table}


def _check(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> None:
    table = parameter_table(config)
    if others := sorted(table.keys() ^ weights.keys()):
        how = "lack" if others[0] in table else "hold the unknown"
        raise UserError(f"the weights are not those of the config: they {how} {others[0]!r}")
    for name, parameter in table.items():
        if np.shape(weights[name]) != parameter.shape:
            raise UserError(
                f"weight {name!r} has shape {np.shape(weights[name])}, and the config's is {parameter.shape}"
            )
        if not np.isfinite(weights[name]).all():
            raise UserError(f"weight {name!r} holds values that are not finite")


def _by_bare_name(architecture: Architecture, entries: Entries) -> Entries:
    bare: Entries = {}
    for name, entry in entries.items():
        short = name.removeprefix(architecture.prefix)
        if architecture.buffers.fullmatch(short):
            continue
        if short in bare:
            raise UserError(f"{entry.path}: tensors {bare[short].name!r} and {name!r} are the same one twice")
        bare[short] = entry
    return bare


def _read(entry: Entry, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if entry.shape != shape:
        raise UserError(
            f"{entry.path}: tensor {entry.name!r} has shape {entry.shape}, and config.json makes it {shape}"
        )
    return entry.read()


def _split(tensor: Tensor, joined: NDArray[np.float32], table: Table) -> Arrays:
    ends = np.cumsum([table[name].shape[0] for name in tensor.ours])
    parts = np.split(joined, ends[:-1])
    return {name: np.array(part, order="C") for name, part in zip(tensor.ours, parts, strict=True)}


def _check_tied(entry: Entry, embed: NDArray[np.float32]) -> None:
    """A tied head may be written out; then it must be what it is tied to."""
    if not np.array_equal(_read(entry, embed.shape), embed):
        raise UserError(f"{entry.path}: tie_word_embeddings is true, and {HEAD} is not the table of embeddings")
