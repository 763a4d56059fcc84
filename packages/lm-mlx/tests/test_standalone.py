"""Operations and modules as people use them alone: any axis, positions as ids, types of their own."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from lm_core.model.positions import sinusoids
from lm_core.reference import model as reference
from lm_core.testing import MODELS, rough_arrays

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from lm_mlx import fused, scratch
from lm_mlx.attention import Attention, rotate
from lm_mlx.layers import MLP, Embedding, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_mlx.model import LanguageModel

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


@both
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_softmax_over_any_axis_is_mlx_s(kernels: ModuleType, axis: int) -> None:
    x = 3 * mx.random.normal((3, 4, 5))
    np.testing.assert_allclose(np.array(kernels.softmax(x, axis)), np.array(mx.softmax(x, axis)), atol=1e-6)
    assert kernels.softmax(x.astype(mx.float64), axis).dtype == mx.float64


def test_rotary_positions_may_be_ids() -> None:
    x, ids = mx.random.normal((2, 3, 20, 8)), [[7, 3, 19, 0], [1, 1, 2, 18]]
    whole = rotate(x, 0, 100.0)
    picked = mx.stack([x[row][:, mx.array(at)] for row, at in enumerate(ids)])
    expected = mx.stack([whole[row][:, mx.array(at)] for row, at in enumerate(ids)])
    np.testing.assert_allclose(np.array(rotate(picked, theta=100.0, positions=mx.array(ids))), np.array(expected))
    at = mx.array(ids[0])
    ours = rotate(x[:, :, at], theta=100.0, positions=at)
    np.testing.assert_allclose(np.array(ours), np.array(whole[:, :, at]), atol=1e-6)
    np.testing.assert_allclose(
        np.array(whole), np.array(mx.fast.rope(x, 8, traditional=False, base=100.0, scale=1.0, offset=0)), atol=1e-5
    )


@both
def test_attention_takes_positions_and_shifted_ones_change_nothing(kernels: ModuleType) -> None:
    attention, x = Attention(16, 4, 2, rope_theta=100.0, kernels=kernels), mx.random.normal((2, 5, 16))
    attention.q_proj.weight = mx.random.normal((16, 16))
    plain = np.array(attention(x))
    np.testing.assert_allclose(np.array(attention(x, positions=mx.arange(5))), plain, atol=1e-6)
    shifted = mx.arange(5) + mx.array([[3], [9]])
    np.testing.assert_allclose(np.array(attention(x, positions=shifted)), plain, atol=1e-5)
    assert not np.allclose(np.array(attention(x, positions=2 * mx.arange(5))), plain, atol=1e-6)


@both
@pytest.mark.parametrize("dtype", [mx.float64, mx.bfloat16, mx.float32], ids=str)
def test_a_module_has_a_type_of_its_own_and_computes_in_that_of_its_input(kernels: ModuleType, dtype: mx.Dtype) -> None:
    modules = [
        Linear(8, 8, kernels=kernels, dtype=dtype),
        RMSNorm(8, kernels=kernels, dtype=dtype),
        LayerNorm(8, kernels=kernels, dtype=dtype),
        MLP(8, 12, kernels=kernels, dtype=dtype),
        SwiGLU(8, 12, kernels=kernels, dtype=dtype),
        Attention(8, 2, rope_theta=100.0, kernels=kernels, dtype=dtype),
    ]
    for module in modules:
        assert {p.dtype for _, p in tree_flatten(module.parameters())} == {dtype}
        for of_input in (mx.float64, mx.bfloat16):
            assert module(mx.random.normal((1, 3, 8)).astype(of_input)).dtype == of_input, type(module)
    table = Embedding(5, 8, kernels=kernels, dtype=dtype)
    assert table(mx.array([1, 2])).dtype == dtype
    theirs = nn.Linear(8, 8)
    theirs.set_dtype(dtype)
    modules[0].update(theirs.parameters())
    x = mx.random.normal((3, 8)).astype(dtype)
    ours, expected = (np.array(y.astype(mx.float32)) for y in (modules[0](x), theirs(x)))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-2 if dtype == mx.bfloat16 else 1e-6)


@both
def test_float64_without_exponentials_is_computed_in_float64(kernels: ModuleType) -> None:
    """MLX gives the exponential of a float64 to the digits of a float32; the norms and products are exact."""
    x, weight = np.random.default_rng(0).standard_normal((5, 8)), np.random.default_rng(1).standard_normal((8, 8))
    layer = Linear(8, 8, bias=False, kernels=kernels, dtype=mx.float64)
    layer.weight = mx.array(weight.tolist(), mx.float64)
    wide = mx.array(x.tolist(), mx.float64)
    np.testing.assert_allclose(np.array(layer(wide)), x @ weight.T, rtol=0, atol=1e-13)
    rms = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.array(RMSNorm(8, kernels=kernels)(wide)), rms, rtol=0, atol=1e-13)
    tanh = np.array(kernels.gelu_tanh(wide))
    np.testing.assert_allclose(tanh, reference.gelu_tanh(x), rtol=0, atol=1e-13)


def test_sinusoidal_positions_are_mlx_s() -> None:
    ours = sinusoids(64, 32)
    theirs = np.array(nn.SinusoidalPositionalEncoding(32)(mx.arange(64)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1)


@both
@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_float64_is_the_reference(kernels: ModuleType, name: str) -> None:
    config, arrays = MODELS[name], rough_arrays(MODELS[name])
    model = LanguageModel(config, mx.float64, kernels)
    model.update(tree_unflatten([(key, mx.array(a)) for key, a in arrays.items()]))
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    logits = model(mx.array(ids))
    assert logits.dtype == mx.float64
    np.testing.assert_allclose(np.array(logits), reference.logits(config, arrays, ids), rtol=0, atol=1e-5)
