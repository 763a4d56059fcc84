"""Llama (Touvron et al. 2023), as `LlamaForCausalLM` has it; and Mistral without a sliding window, which is the same.

Both turn element i of a head with element i + H/2, so no row is moved. Axes: H head.
"""

import re
from collections.abc import Iterator
from typing import Any

from lm_core.config import ModelConfig
from lm_core.errors import UserError
from lm_core.interchange.architecture import Architecture, Tensor
from lm_core.interchange.keys import Keys

_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm"}
_PROJECTIONS = {f"self_attn.{letter}_proj": f"attn.{letter}_proj" for letter in "qkvo"} | {
    f"mlp.{name}_proj": f"mlp.{name}_proj" for name in ("gate", "up", "down")
}
_THETA = 10000.0


def obstacles(config: ModelConfig) -> list[str]:
    """The fields that Llama cannot express."""
    fits = {
        "norm": config.norm == "rms",
        "mlp": config.mlp == "swiglu",
        "positions": config.positions == "rope",
        "head_bias": not config.head_bias,
    }
    return [f"{field} = {getattr(config, field)!r}" for field, does in fits.items() if not does]


def settings(config: ModelConfig) -> dict[str, Any]:
    """The keys of its `config.json`."""
    return {
        "max_position_embeddings": config.seq_len,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "attention_dropout": 0.0,  # there is none on the branches, so ours cannot be said
        "rope_theta": config.rope_theta,  # transformers 4 and mlx-lm read this, transformers 5 what follows
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }


def config_of(keys: Keys) -> ModelConfig:
    """The config that a `config.json` describes.

    Raises:
        UserError: for what this package's model cannot do, by key and value.
    """
    if keys.get("model_type") == "mistral" and not keys.has("sliding_window"):
        raise UserError(f"{keys.path} has no key 'sliding_window', which means 4096 in Mistral: only null is supported")
    keys.only("partial_rotary_factor", None, 1.0, 1)
    for key in ("rope_traditional", "rope_interleaved"):  # mlx-lm's and nanotron's words for pairs of neighbours
        keys.only(key, False, None)
    width, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    head_dim = keys.size("head_dim", max(1, width // heads))
    if head_dim * heads != width:
        raise keys.refusal("head_dim", f"hidden_size / num_attention_heads = {width} / {heads}")
    bias = keys.flag("attention_bias", False)
    if keys.flag("mlp_bias", False) != bias:
        raise keys.refusal("mlp_bias", f"what attention_bias is, {str(bias).lower()}")
    keys.choice("hidden_act", "silu", {"silu": None, "swish": None})
    values = {
        "vocab_size": keys.size("vocab_size"),
        "seq_len": keys.size("max_position_embeddings"),
        "d_model": width,
        "n_layers": keys.size("num_hidden_layers"),
        "n_heads": heads,
        # Where the key is not there, MistralConfig has 8; its files have the key, and the shapes would tell.
        "n_kv_heads": keys.size("num_key_value_heads", heads),
        "d_ff": keys.size("intermediate_size"),
        "norm": "rms",
        "norm_eps": keys.number("rms_norm_eps", 1e-6),
        "mlp": "swiglu",
        "positions": "rope",
        "rope_theta": _theta(keys),
        "bias": bias,
        "tie_embeddings": keys.flag("tie_word_embeddings", False),
    }
    return ModelConfig.parse(values, str(keys.path))


def layout(config: ModelConfig) -> Iterator[Tensor]:
    """Every tensor but the head."""
    yield Tensor("embed_tokens.weight", ("embed.weight",))
    for i in range(config.n_layers):
        for theirs, ours in _NORMS.items():
            yield Tensor(f"layers.{i}.{theirs}.weight", (f"blocks.{i}.{ours}.weight",))
        for theirs, ours in _PROJECTIONS.items():
            for kind in ("weight", "bias") if config.bias else ("weight",):
                yield Tensor(f"layers.{i}.{theirs}.{kind}", (f"blocks.{i}.{ours}.{kind}",))
    yield Tensor("norm.weight", ("norm.weight",))


def _theta(keys: Keys) -> float:
    """The base of the wavelengths: in `rope_parameters` since transformers 5, at the top before; or in both, alike."""
    found = {keys.number("rope_theta", _THETA)} if keys.get("rope_theta") is not None else set()
    for key in ("rope_parameters", "rope_scaling"):
        rope = keys.get(key)
        if rope is None:
            continue
        supported = 'an object with rope_type "default" for all layers, without scaling'
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            raise keys.refusal(key, supported)
        kinds = [rope[name] for name in ("rope_type", "type") if rope.get(name) is not None]
        if any(kind != "default" for kind in kinds) or rope.get("partial_rotary_factor", 1) != 1:
            raise keys.refusal(key, supported)
        if rope.get("rope_theta") is not None:
            found.add(Keys(keys.path, rope).number("rope_theta", _THETA))
    if len(found) > 1:
        raise UserError(f"{keys.path}: rope_theta is given twice, as {' and '.join(map(str, sorted(found)))}")
    return found.pop() if found else _THETA


LLAMA = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    prefix="model.",
    buffers=re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),  # computed from rope_theta
    obstacles=obstacles,
    settings=settings,
    config_of=config_of,
    layout=layout,
)
