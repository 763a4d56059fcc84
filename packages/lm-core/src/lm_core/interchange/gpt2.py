"""GPT-2 (Radford et al. 2019), as `GPT2LMHeadModel` has it.

Its projections are [in, out] (Conv1D) and have biases, and q, k and v are one. A model of ours without biases becomes
one whose biases are 0, which computes the same; it comes back with them.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from lm_core.config import ModelConfig
from lm_core.interchange.architecture import Architecture, Tensor
from lm_core.interchange.keys import Keys

# gelu_new and gelu_pytorch_tanh are the same formula, written twice (transformers/activations.py).
_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu",
}  # fmt: skip
_ALIASES = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
_PARTS = {"ln_1": "attn_norm", "attn.c_proj": "attn.o_proj", "ln_2": "mlp_norm"} | {
    "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj",
}  # fmt: skip


def obstacles(config: ModelConfig) -> list[str]:
    """The fields that GPT-2 cannot express."""
    fits = {
        "norm": config.norm == "layer",
        "mlp": config.mlp in _ACTIVATIONS.values(),
        "positions": config.positions == "learned",
        "n_kv_heads": config.kv_heads == config.n_heads,
        "head_bias": not config.head_bias,
    }
    return [f"{field} = {getattr(config, field)!r}" for field, does in fits.items() if not does]


def settings(config: ModelConfig) -> dict[str, Any]:
    """The keys of its `config.json`."""
    return {
        "n_positions": config.seq_len,
        "n_ctx": config.seq_len,  # mlx-lm asks for it
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.ff_dim,
        "activation_function": "gelu" if config.mlp == "gelu" else "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
    }


def config_of(keys: Keys) -> ModelConfig:
    """The config that a `config.json` describes.

    Raises:
        UserError: for what this package's model cannot do, by key and value.
    """
    keys.only("scale_attn_weights", True)
    keys.only("scale_attn_by_inverse_layer_idx", False)
    width = keys.size("n_embd")
    values = {
        "vocab_size": keys.size("vocab_size"),
        "seq_len": keys.size("n_positions"),
        "d_model": width,
        "n_layers": keys.size("n_layer"),
        "n_heads": keys.size("n_head"),
        "d_ff": keys.size("n_inner", 4 * width),
        "mlp": keys.choice("activation_function", "gelu_new", _ACTIVATIONS),
        "norm_eps": keys.number("layer_norm_epsilon", 1e-5),
        "tie_embeddings": keys.flag("tie_word_embeddings", True),
    }
    return ModelConfig.parse(values, str(keys.path))


def layout(config: ModelConfig) -> Iterator[Tensor]:
    """Every tensor but the head."""
    yield Tensor("wte.weight", ("embed.weight",))
    yield Tensor("wpe.weight", ("pos_embed.weight",))
    for i in range(config.n_layers):
        for kind in ("weight", "bias"):
            qkv = tuple(f"blocks.{i}.attn.{letter}_proj.{kind}" for letter in "qkv")
            yield Tensor(f"h.{i}.attn.c_attn.{kind}", qkv, transposed=kind == "weight")
            for theirs, ours in _PARTS.items():
                transposed = kind == "weight" and "norm" not in ours
                yield Tensor(f"h.{i}.{theirs}.{kind}", (f"blocks.{i}.{ours}.{kind}",), transposed)
    yield Tensor("ln_f.weight", ("norm.weight",))
    yield Tensor("ln_f.bias", ("norm.bias",))


GPT2 = Architecture(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    prefix="transformer.",
    buffers=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),  # the causal mask
    obstacles=obstacles,
    settings=settings,
    config_of=config_of,
    layout=layout,
    # As OpenAI's own files are, and as mlx-lm wants it, which has no head. With one, transformers 4 wants the prefix.
    bare_if_tied=True,
    aliases=_ALIASES,
    ignored=("n_ctx",),  # of versions that made their causal mask as long
)
