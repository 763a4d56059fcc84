"""The modules alone: against the float64 reference, on any leading dimensions where they take them, and causal."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_core.config import ModelConfig, SamplingConfig
from lm_core.reference import model as reference
from lm_core.testing import MODELS, rough_arrays
from lm_torch import fused, scratch
from lm_torch.attention import Attention
from lm_torch.decode import TorchDecoder
from lm_torch.layers import MLP, Embedding, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_torch.model import Block, LanguageModel

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])
leading = pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
D, F, T = 8, 12, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32))


def roughened(module: nn.Module, prefix: str = "x") -> dict[str, NDArray[Any]]:
    """Larger weights than the initial ones, which the module then has; returned as the reference names them."""
    with torch.no_grad():
        for i, param in enumerate(module.parameters()):
            param += 0.5 * draw(*param.shape, seed=i)
    return {f"{prefix}.{name}": p.detach().numpy().astype(np.float64) for name, p in module.named_parameters()}


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 11, "seq_len": T, "d_model": D, "n_layers": 1, "n_heads": 2, **changes})


@both
@leading
def test_layers_are_the_reference_on_any_leading_dimensions(kernels: ModuleType, lead: tuple[int, ...]) -> None:
    x = draw(*lead, D)
    wide = x.numpy().astype(np.float64)
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
            expected = reference.linear(weights, "x", wide)
        elif kind in ("rms", "layer"):
            expected = reference.normalize(config(norm=kind), weights, "x", wide)
        else:
            expected = reference.mlp(config(mlp=kind), weights, "x", wide)
        y = layer(x)
        np.testing.assert_allclose(y.detach(), expected, atol=1e-5, err_msg=name)
        assert layer(x.bfloat16()).dtype == torch.bfloat16, name
        y.sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in layer.parameters()), name


@both
@leading
def test_an_embedding_takes_ids_of_any_shape(kernels: ModuleType, lead: tuple[int, ...]) -> None:
    table, ids = Embedding(11, D, kernels=kernels), torch.arange(6).repeat(2)[: int(np.prod(lead))].view(lead)
    assert torch.equal(table(ids), table.weight[ids])


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
    expected = reference.attention(c, weights, "x", x.numpy().astype(np.float64))
    np.testing.assert_allclose(attention(x).detach(), expected, atol=1e-5)


def test_attention_drops_weights_only_with_a_key() -> None:
    attention, x = Attention(D, 2, dropout_rate=0.5), draw(1, T, D)
    roughened(attention)
    wet = attention(x, key=torch.tensor(7), site=3)
    assert torch.equal(wet, attention(x, key=torch.tensor(7), site=3))
    for other in (attention(x), attention(x, key=torch.tensor(8), site=3), attention(x, key=torch.tensor(7), site=4)):
        assert not torch.equal(wet, other)


@both
@pytest.mark.parametrize("changes", [{}, {"norm": "rms", "mlp": "swiglu", "positions": "rope", "n_kv_heads": 1}])
def test_a_block_is_the_reference(kernels: ModuleType, changes: dict[str, Any]) -> None:
    c = config(**changes)
    block, x = Block(c, 0, kernels), draw(3, T, D)
    weights = roughened(block)
    stream = x.numpy().astype(np.float64)
    stream = stream + reference.attention(c, weights, "x.attn", reference.normalize(c, weights, "x.attn_norm", stream))
    stream = stream + reference.mlp(c, weights, "x.mlp", reference.normalize(c, weights, "x.mlp_norm", stream))
    np.testing.assert_allclose(block(x).detach(), stream, atol=2e-5)


@both
@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_made_on_its_own_is_the_reference(kernels: ModuleType, name: str) -> None:
    model, arrays = LanguageModel(MODELS[name], kernels=kernels), rough_arrays(MODELS[name])
    model.load_state_dict({key: torch.from_numpy(a) for key, a in arrays.items()})
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    logits = model(torch.from_numpy(ids))
    np.testing.assert_allclose(logits.detach(), reference.logits(MODELS[name], arrays, ids), atol=1e-5)
    hidden = model.hidden(torch.from_numpy(ids))
    torch.testing.assert_close(model.head(hidden), logits)
    torch.testing.assert_close(model.head(hidden[0, 3]), logits[0, 3], rtol=1e-4, atol=1e-5)


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
    model.load_state_dict({key: torch.from_numpy(a) for key, a in arrays.items()})
    decoder, texts = TorchDecoder(model, len(prompts), 29), [list(prompt) for prompt in prompts]
    for row, prompt in enumerate(prompts):
        decoder.prefill(row, prompt)
    for _ in range(4):
        for row, text in enumerate(texts):
            expected = model(torch.tensor([text]))[0, -1, :29].detach().numpy()
            np.testing.assert_allclose(decoder.logits[row], expected, atol=1e-5)
        for text, chosen in zip(texts, decoder.next_ids([[0.3] * len(texts)], SamplingConfig())[0], strict=True):
            text.append(chosen)


def reach(y: Tensor, x: Tensor) -> NDArray[Any]:
    """[T, T'], how much output t depends on input t': y [1, T, ...], x [1, T', D]."""
    gradients = [torch.autograd.grad((y[0, t] * draw(y.shape[-1])).sum(), x, retain_graph=True)[0] for t in range(T)]
    return torch.stack([g[0].abs().sum(dim=-1) for g in gradients]).numpy()


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
    x = draw(1, T, D).requires_grad_()
    assert_causal(reach(attention(x, key=torch.tensor(1) if dropout_rate else None), x))


@both
@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_models_are_causal_by_gradient(kernels: ModuleType, name: str) -> None:
    c = MODELS[name].model_copy(update={"tie_embeddings": False})
    block, x = Block(c, 0, kernels), draw(1, T, c.d_model).requires_grad_()
    roughened(block)
    assert_causal(reach(block(x), x))
    model, ids = LanguageModel(c, kernels=kernels), torch.tensor([[3, 1, 4, 0, 5]])
    roughened(model)
    table = model.embed.weight
    logits = model(ids)
    gradients = [torch.autograd.grad(logits[0, t, 7], table, retain_graph=True)[0] for t in range(T)]
    assert_causal(torch.stack([g[ids[0]].abs().sum(dim=-1) for g in gradients]).numpy())
