"""The modules alone: against the float64 reference, on any leading dimensions where they take them, and causal."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.config import ModelConfig, SamplingConfig
from lm_core.reference import model as reference
from lm_core.testing import MODELS, rough_arrays

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from lm_mlx import fused, scratch
from lm_mlx.attention import Attention
from lm_mlx.decode import MlxDecoder
from lm_mlx.layers import MLP, Embedding, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_mlx.model import Block, LanguageModel

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])
leading = pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
D, F, T = 8, 12, 5


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def draw(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32))


def wide(x: mx.array) -> NDArray[np.float64]:
    return np.array(x).astype(np.float64)


def roughened(module: nn.Module, prefix: str = "x") -> dict[str, NDArray[Any]]:
    """Larger weights than the initial ones, which the module then has; returned as the reference names them."""
    params = [(name, p + 0.5 * draw(*p.shape, seed=i)) for i, (name, p) in enumerate(tree_flatten(module.parameters()))]
    module.update(tree_unflatten(params))
    return {f"{prefix}.{name}": wide(p) for name, p in params}


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 11, "seq_len": T, "d_model": D, "n_layers": 1, "n_heads": 2, **changes})


@both
@leading
def test_layers_are_the_reference_on_any_leading_dimensions(kernels: ModuleType, lead: tuple[int, ...]) -> None:
    x = draw(*lead, D)
    layers: dict[str, nn.Module] = {
        "linear": Linear(D, F, kernels=kernels),
        "linear without bias": Linear(D, F, bias=False, kernels=kernels),
        "rms": RMSNorm(D, kernels=kernels),
        "layer": LayerNorm(D, kernels=kernels),
        "layer without bias": LayerNorm(D, bias=False, kernels=kernels),
        "gelu": MLP(D, F, "gelu", kernels=kernels),
        "gelu_tanh": MLP(D, F, kernels=kernels),
        "gelu_tanh without bias": MLP(D, F, bias=False, kernels=kernels),
        "swiglu": SwiGLU(D, F, kernels=kernels),
        "swiglu with bias": SwiGLU(D, F, bias=True, kernels=kernels),
    }
    for name, layer in layers.items():
        weights = roughened(layer)
        assert any(key.endswith("bias") for key in weights) == (
            "without" not in name and name not in ("rms", "swiglu")
        ), name
        kind = name.split()[0]
        if kind == "linear":
            expected = reference.linear(weights, "x", wide(x))
        elif kind in ("rms", "layer"):
            expected = reference.normalize(config(norm=kind), weights, "x", wide(x))
        else:
            expected = reference.mlp(config(mlp=kind), weights, "x", wide(x))
        np.testing.assert_allclose(np.array(layer(x)), expected, atol=1e-5, err_msg=name)
        assert layer(x.astype(mx.bfloat16)).dtype == mx.bfloat16, name
        assert all(p.dtype == mx.float32 for _, p in tree_flatten(layer.parameters())), name


@both
@leading
def test_an_embedding_takes_ids_of_any_shape(kernels: ModuleType, lead: tuple[int, ...]) -> None:
    table, ids = Embedding(11, D, kernels=kernels), mx.array(np.resize(np.arange(5), lead))
    np.testing.assert_array_equal(np.array(table(ids)), np.array(table.weight)[np.array(ids)])


ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"n_kv_heads": 1},
    "rotary": {"positions": "rope", "rope_theta": 100.0},
    "without bias": {"bias": False},
}


@both
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_the_reference(kernels: ModuleType, name: str) -> None:
    c = config(**{"positions": "none", **ATTENTIONS[name]})
    attention = Attention(D, 2, c.n_kv_heads, c.bias, c.rope_theta if c.positions == "rope" else None, kernels=kernels)
    weights, x = roughened(attention), draw(3, T, D)
    expected = reference.attention(c, weights, "x", wide(x))
    np.testing.assert_allclose(np.array(attention(x)), expected, atol=1e-5)


def test_attention_drops_weights_only_with_a_key() -> None:
    attention, x = Attention(D, 2, dropout_rate=0.5), draw(1, T, D)
    roughened(attention)
    seven, eight = (mx.array(key, dtype=mx.uint32) for key in (7, 8))
    wet = attention(x, key=seven, site=3)
    assert mx.array_equal(wet, attention(x, key=seven, site=3))
    for other in (attention(x), attention(x, key=eight, site=3), attention(x, key=seven, site=4)):
        assert not mx.array_equal(wet, other)


@both
@pytest.mark.parametrize("changes", [{}, {"norm": "rms", "mlp": "swiglu", "positions": "rope", "n_kv_heads": 1}])
def test_a_block_is_the_reference(kernels: ModuleType, changes: dict[str, Any]) -> None:
    c = config(**changes)
    block, x = Block(c, 0, kernels), draw(3, T, D)
    weights = roughened(block)
    stream = wide(x)
    stream = stream + reference.attention(c, weights, "x.attn", reference.normalize(c, weights, "x.attn_norm", stream))
    stream = stream + reference.mlp(c, weights, "x.mlp", reference.normalize(c, weights, "x.mlp_norm", stream))
    np.testing.assert_allclose(np.array(block(x)), stream, atol=2e-5)


@both
@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_made_on_its_own_is_the_reference(kernels: ModuleType, name: str) -> None:
    model, arrays = LanguageModel(MODELS[name], kernels=kernels), rough_arrays(MODELS[name])
    model.load_weights([(key, mx.array(a)) for key, a in arrays.items()])
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    logits = model(mx.array(ids))
    np.testing.assert_allclose(np.array(logits), reference.logits(MODELS[name], arrays, ids), atol=1e-5)
    hidden = model.hidden(mx.array(ids))
    np.testing.assert_allclose(np.array(model.head(hidden)), np.array(logits), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(model.head(hidden[0, 3])), np.array(logits)[0, 3], rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "prompts", [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4], list(range(20))]], ids=["alike", "unequal"]
)
def test_the_logits_of_a_decoder_are_the_model_s_position_by_position(
    kernels: ModuleType, name: str, prompts: list[list[int]]
) -> None:
    """Rows of one length and of several; of the vocabulary, the 29 ids that stand for something."""
    model, arrays = LanguageModel(MODELS[name], kernels=kernels), rough_arrays(MODELS[name])
    model.load_weights([(key, mx.array(a)) for key, a in arrays.items()])
    decoder, texts = MlxDecoder(model, len(prompts), 29), [list(prompt) for prompt in prompts]
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    for _ in range(4):
        for row, text in enumerate(texts):
            expected = np.array(model(mx.array([text]))[0, -1, :29])
            np.testing.assert_allclose(np.array(decoder.logits[row]), expected, atol=1e-5)
        for text, chosen in zip(texts, decoder.next_ids([[0.3] * len(texts)], SamplingConfig())[0], strict=True):
            text.append(chosen)


def reach(f: Callable[[mx.array], mx.array], x: mx.array) -> NDArray[Any]:
    """[T, T'], how much output t depends on input t': f takes [1, T', D] to [1, T, ...]."""
    gradients = [mx.grad(lambda x, t=t: (f(x)[0, t] * draw(f(x).shape[-1])).sum())(x) for t in range(T)]
    return np.array(mx.stack([mx.abs(g[0]).sum(axis=-1) for g in gradients]))


def assert_causal(slopes: NDArray[Any]) -> None:
    assert slopes.shape == (T, T)
    assert not np.triu(slopes, 1).any(), "a position depends on a later one"
    assert (slopes[np.tril_indices(T)] > 0).all(), "a position does not depend on one before it"


@both
@pytest.mark.parametrize("rope_theta", [None, 100.0])
@pytest.mark.parametrize("dropout_rate", [0.0, 1e-6], ids=["kernel", "with dropout"])
def test_attention_is_causal_by_gradient(kernels: ModuleType, rope_theta: float | None, dropout_rate: float) -> None:
    attention = Attention(D, 4, 2, True, rope_theta, dropout_rate, kernels)
    roughened(attention)
    key = mx.array(1, dtype=mx.uint32) if dropout_rate else None
    assert_causal(reach(lambda x: attention(x, key=key), draw(1, T, D)))


@both
@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_models_are_causal_by_gradient(kernels: ModuleType, name: str) -> None:
    c = MODELS[name].model_copy(update={"tie_embeddings": False})
    block = Block(c, 0, kernels)
    roughened(block)
    assert_causal(reach(block, draw(1, T, c.d_model)))
    model, ids = LanguageModel(c, kernels=kernels), mx.array([[3, 1, 4, 0, 5]])
    roughened(model)
    gradients = [nn.value_and_grad(model, lambda t=t: model(ids)[0, t, 7])()[1] for t in range(T)]
    assert_causal(np.stack([np.abs(np.array(g["embed"]["weight"][ids[0]])).sum(axis=-1) for g in gradients]))
