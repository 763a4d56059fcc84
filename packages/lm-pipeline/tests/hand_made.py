"""A model whose weights are set by hand, so that it copies what followed the same token before: an induction head.

    layer 0, head 0   looks one token back, and writes what it sees beside the token
    layer 1, head 0   looks where its own token is written so, and writes the token there as what comes next

Everything else is zero, so the heads 0.1 and 1.1 attend to all alike and add nothing.
The residual stream is four one-hot vectors: the token, its position, the token before, the token to come.
"""

import numpy as np
from numpy.typing import NDArray

from lm_core.config import ModelConfig
from lm_core.model.parameters import parameter_table

SIZE = 16
CONFIG = ModelConfig(
    vocab_size=SIZE, seq_len=SIZE, d_model=4 * SIZE, n_layers=2, n_heads=2, norm="rms", positions="learned", d_ff=SIZE
)
SHARP = 40.0


def hand_made_weights() -> dict[str, NDArray[np.float32]]:
    """Weights of CONFIG."""
    arrays = {name: np.zeros(spec.shape, np.float32) for name, spec in parameter_table(CONFIG).items()}
    for name in arrays:
        if "norm" in name:
            arrays[name][:] = 1
    token, position, before, to_come = (slice(i * SIZE, (i + 1) * SIZE) for i in range(4))
    one = np.eye(SIZE, dtype=np.float32)
    arrays["embed.weight"][:, token] = one
    arrays["pos_embed.weight"][:, position] = one
    _head(arrays, 0, query=(position, np.eye(SIZE, k=1)), key=position, value=token, output=before)
    _head(arrays, 1, query=(token, one), key=before, value=token, output=to_come)
    arrays["lm_head.weight"][:, to_come] = 4 * one
    return arrays


def _head(
    arrays: dict[str, NDArray[np.float32]],
    layer: int,
    query: tuple[slice, NDArray[np.floating]],
    key: slice,
    value: slice,
    output: slice,
) -> None:
    """Head 0 of a layer: its query and key meet in one part of the stream each, its value is moved to another."""
    attn, rows = f"blocks.{layer}.attn", slice(0, SIZE)
    arrays[f"{attn}.q_proj.weight"][rows, query[0]] = SHARP * query[1]
    arrays[f"{attn}.k_proj.weight"][rows, key] = np.eye(SIZE)
    arrays[f"{attn}.v_proj.weight"][rows, value] = np.eye(SIZE)
    arrays[f"{attn}.o_proj.weight"][output, rows] = np.eye(SIZE)
