"""The parameter table: name -> shape, initial std, group.

It alone drives names, initial arrays, counts, optimizer groups and the validation of checkpoints, in both backends.

Weights of projections are [out, in], as both frameworks keep them: y = x W^T + b.
Axes: V vocabulary, T positions, D model, N heads, K kv heads, H head, F feed-forward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from lm_core.config import DecayGroup, ModelConfig
from lm_core.errors import UserError


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    shape: tuple[int, ...]
    init: Literal["normal", "zeros", "ones"]
    std: float
    """Standard deviation when init is "normal"."""
    group: DecayGroup
    """Weight-decay group."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Table = dict[str, Parameter]


def parameter_table(config: ModelConfig) -> Table:
    """Every parameter of the model, in the order of the forward pass."""
    c = config
    deep_std = c.init_std / math.sqrt(2 * c.n_layers) if c.depth_scaled_init else c.init_std
    table: Table = {}

    def matrix(name: str, rows: int, columns: int, std: float = c.init_std, group: DecayGroup = "matrix") -> None:
        table[f"{name}.weight"] = Parameter((rows, columns), "normal", std, group)

    def linear(name: str, outputs: int, inputs: int, bias: bool, std: float = c.init_std) -> None:
        matrix(name, outputs, inputs, std)
        if bias:
            table[f"{name}.bias"] = Parameter((outputs,), "zeros", 0.0, "bias")

    def norm(name: str) -> None:
        table[f"{name}.weight"] = Parameter((c.d_model,), "ones", 0.0, "norm")
        if c.norm == "layer" and c.bias:
            table[f"{name}.bias"] = Parameter((c.d_model,), "zeros", 0.0, "norm")

    matrix("embed", c.vocab_size, c.d_model, group="embed")
    if c.positions == "learned":
        matrix("pos_embed", c.seq_len, c.d_model, group="embed")
    for i in range(c.n_layers):
        block = f"blocks.{i}"
        norm(f"{block}.attn_norm")
        linear(f"{block}.attn.q_proj", c.d_model, c.d_model, c.bias)
        linear(f"{block}.attn.k_proj", c.kv_heads * c.head_dim, c.d_model, c.bias)
        linear(f"{block}.attn.v_proj", c.kv_heads * c.head_dim, c.d_model, c.bias)
        linear(f"{block}.attn.o_proj", c.d_model, c.d_model, c.bias, deep_std)
        norm(f"{block}.mlp_norm")
        if c.mlp == "swiglu":
            linear(f"{block}.mlp.gate_proj", c.ff_dim, c.d_model, c.bias)
        linear(f"{block}.mlp.up_proj", c.ff_dim, c.d_model, c.bias)
        linear(f"{block}.mlp.down_proj", c.d_model, c.ff_dim, c.bias, deep_std)
    norm("norm")
    if not c.tie_embeddings:
        linear("lm_head", c.vocab_size, c.d_model, c.head_bias)
    return table


def parameter_count(config: ModelConfig) -> int:
    """Number of trained values."""
    return sum(parameter.size for parameter in parameter_table(config).values())


def check_fit(table: Table, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Whether `arrays` are those of the table; a framework may broadcast, or take what it does not know.

    Raises:
        ValueError: naming the first that is missing, unknown or of another shape.
    """
    for name in [*table, *arrays]:
        if name not in arrays or name not in table:
            raise ValueError(f"{name} is {'missing' if name in table else 'not a parameter of this model'}")
        if arrays[name].shape != table[name].shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, and the model's is {table[name].shape}")


def check_weights(model: ModelConfig, weights: Mapping[str, NDArray[Any]], where: str) -> None:
    """Refuse weights that are not those of a model, as `check_fit` does, naming `where` they are.

    Raises:
        UserError: at the first that is not.
    """
    try:
        check_fit(parameter_table(model), weights)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
