"""Operations and modules as people use them alone: any axis, positions as ids, types of their own."""

from types import ModuleType

import numpy as np
import pytest
import torch

from lm_core.model.positions import document_starts
from lm_core.reference import model as reference
from lm_core.testing import MODELS, packed_batch, rough_arrays
from lm_torch import fused, scratch
from lm_torch.attention import Attention, rotate
from lm_torch.layers import MLP, Embedding, LayerNorm, Linear, RMSNorm, SwiGLU
from lm_torch.model import LanguageModel

both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])


@both
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_softmax_over_any_axis_is_torch_s(kernels: ModuleType, axis: int) -> None:
    x = 3 * torch.randn(3, 4, 5)
    torch.testing.assert_close(kernels.softmax(x, axis), torch.softmax(x, axis))
    torch.testing.assert_close(kernels.softmax(x.double(), axis), torch.softmax(x.double(), axis), rtol=0, atol=1e-15)


def test_rotary_positions_may_be_ids() -> None:
    x = torch.randn(2, 3, 20, 8)
    whole, ids = rotate(x, 0, 100.0), torch.tensor([[7, 3, 19, 0], [1, 1, 2, 18]])
    picked = torch.stack([row[:, at] for row, at in zip(x, ids, strict=True)])
    expected = torch.stack([row[:, at] for row, at in zip(whole, ids, strict=True)])
    torch.testing.assert_close(rotate(picked, theta=100.0, positions=ids), expected)
    torch.testing.assert_close(rotate(x[..., ids[0], :], theta=100.0, positions=ids[0]), whole[..., ids[0], :])
    torch.testing.assert_close(rotate(x[0, 0, ids[0]], theta=100.0, positions=ids[0]), whole[0, 0, ids[0]])


@both
def test_attention_takes_positions_and_shifted_ones_change_nothing(kernels: ModuleType) -> None:
    attention, x = Attention(16, 4, 2, rope_theta=100.0, kernels=kernels), torch.randn(2, 5, 16)
    torch.nn.init.normal_(attention.q_proj.weight)
    plain = attention(x)
    torch.testing.assert_close(attention(x, positions=torch.arange(5)), plain)
    torch.testing.assert_close(attention(x, positions=torch.arange(5) + torch.tensor([[3], [9]])), plain)
    assert not torch.allclose(attention(x, positions=2 * torch.arange(5)), plain, atol=1e-6)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32], ids=str)
def test_a_module_has_a_type_of_its_own_and_computes_in_that_of_its_input(
    kernels: ModuleType, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    modules = [
        Linear(8, 8, kernels=kernels, dtype=dtype),
        RMSNorm(8, kernels=kernels, dtype=dtype),
        LayerNorm(8, kernels=kernels, dtype=dtype),
        MLP(8, 12, kernels=kernels, dtype=dtype),
        SwiGLU(8, 12, kernels=kernels, dtype=dtype),
        Attention(8, 2, rope_theta=100.0, kernels=kernels, dtype=dtype),
    ]
    for module in modules:
        assert {p.dtype for p in module.parameters()} == {dtype}
        for of_input in (torch.float64, torch.bfloat16):
            assert module(torch.randn(1, 3, 8, dtype=of_input)).dtype == of_input
    table = Embedding(5, 8, kernels=kernels, dtype=dtype)
    assert table(torch.tensor([1, 2])).dtype == dtype
    linear = torch.nn.Linear(8, 8, dtype=dtype)
    modules[0].load_state_dict(linear.state_dict())
    x = torch.randn(3, 8, dtype=dtype)
    # In bfloat16 scratch rounds the product, of about 1, before it adds the bias.
    rtol, atol = (2**-6, 2**-8) if dtype == torch.bfloat16 else (1e-5, 1e-6)
    torch.testing.assert_close(modules[0](x), linear(x), rtol=rtol, atol=atol)


@both
@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_float64_is_the_reference_to_twelve_digits(kernels: ModuleType, name: str) -> None:
    config, arrays = MODELS[name], rough_arrays(MODELS[name])
    model = LanguageModel(config, torch.float64, kernels)
    model.load_state_dict({key: torch.from_numpy(a) for key, a in arrays.items()})
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    logits = model(torch.from_numpy(ids))
    np.testing.assert_allclose(logits.detach(), reference.logits(config, arrays, ids), rtol=0, atol=1e-12)
    loss = model.loss(torch.from_numpy(ids), torch.from_numpy(ids))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(reference.loss(config, arrays, ids, ids), abs=1e-13)
    batch = packed_batch(config, rows=2, length=9)
    starts = torch.from_numpy(document_starts(batch.segments))
    losses = model.token_losses(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets).long(), starts)
    expected = reference.score(config, arrays, batch.inputs, batch.targets, batch.segments)
    np.testing.assert_allclose(losses.detach(), expected, rtol=0, atol=1e-12)
