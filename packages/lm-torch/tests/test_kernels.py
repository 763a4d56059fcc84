"""The Triton kernels against their `scratch` twins, in values and gradients.

They run on a CUDA device (`-m gpu`), or on a CPU by Triton's interpreter, for which test_kernels_interpreted.py starts
pytest on this file. There the blocks are smaller, so that short texts take several of them.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_core.reference.dropout import keep_mask
from lm_core.testing import MODELS, rough_arrays
from lm_torch import fused, kernels, scratch
from lm_torch.dropout import Dropping, part_key
from lm_torch.kernels import attention as flash
from lm_torch.kernels import gelu
from lm_torch.kernels.attention import Blocks
from lm_torch.kernels.cross_entropy import softmax_cross_entropy_
from lm_torch.kernels.heads import projected_heads
from lm_torch.model import LanguageModel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED:
    pytestmark = pytest.mark.gpu

ERROR = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
"""Of a whole tensor, relative to its norm; float64 is the oracle."""
both = pytest.mark.parametrize("dtype", ERROR, ids=str)
LONG = [pytest.mark.slow] if INTERPRETED else []
"""Marks of what takes many seconds in the interpreter."""


@pytest.fixture(autouse=True)
def _run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", {DEVICE})
    if INTERPRETED:
        small = {"forward": Blocks(32, 32), "queries": Blocks(64, 32), "keys": Blocks(32, 64)}
        monkeypatch.setattr(flash, "BLOCKS", dict.fromkeys(flash.BLOCKS, small))


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return torch.from_numpy(values).to(DEVICE, dtype).requires_grad_()


def check(ours: Tensor, oracle: Tensor, error: float) -> None:
    assert ours.shape == oracle.shape
    ours, oracle = ours.detach().double(), oracle.detach().double()
    scale = max(float(oracle.norm()), 0.5 * oracle.numel() ** 0.5)  # some gradients are 0 but for rounding
    assert float((ours - oracle).norm()) <= error * scale


def check_all(ours: Any, oracle: Any, tensors: list[Tensor]) -> None:
    """Values and gradients of a function, against another on float64 copies of the arguments."""
    error, wide = ERROR[tensors[0].dtype], [t.detach().double().requires_grad_() for t in tensors]
    y, expected = ours(*tensors), oracle(*wide)
    assert y.dtype == tensors[0].dtype
    check(y, expected, error)
    upstream = draw(*y.shape, dtype=y.dtype, seed=9).detach()
    asking = [i for i, t in enumerate(tensors) if t.requires_grad]
    gradients = torch.autograd.grad(y, [tensors[i] for i in asking], upstream)
    oracle_s = torch.autograd.grad(expected, [wide[i] for i in asking], upstream.double())
    for ours_of, expected_of in zip(gradients, oracle_s, strict=True):
        check(ours_of, expected_of, 2 * error)


# Attention

SHAPES = {  # B, N, K, T, H
    "one token": (1, 1, 1, 1, 16),
    "a head of 20": (1, 2, 1, 70, 20),
    **({"whole": (1, 1, 1, 64, 32)} if INTERPRETED else {"uneven": (2, 4, 2, 777, 64), "whole": (2, 3, 3, 1024, 64)}),
    **({} if INTERPRETED else {"wide": (1, 2, 1, 300, 128)}),
}


def heads(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """q, k and v as views of what projections give, [B, T, heads H]."""
    B, N, K, T, H = shape
    return [draw(B, T, n, H, dtype=dtype, seed=i).transpose(1, 2) for i, n in enumerate((N, K, K))]


def dropping(rate: float, site: int = 3) -> Dropping:
    return Dropping(rate, torch.tensor(0xFEDCBA98, device=DEVICE), site)


@both
@pytest.mark.parametrize(
    ("shape", "rate"), [*((shape, 0.2) for shape in SHAPES), ("a head of 20", 0.0), ("whole", 0.7)]
)
def test_flash_attention(shape: str, rate: float, dtype: torch.dtype) -> None:
    drop = dropping(rate) if rate else None
    check_all(
        lambda q, k, v: flash.attention(q, k, v, drop),
        lambda q, k, v: scratch.scaled_dot_product_attention(q, k, v, is_causal=True, drop=drop),
        heads(SHAPES[shape], dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=LONG)], ids=str)
def test_attention_within_segments(dtype: torch.dtype) -> None:
    T = 40 if INTERPRETED else 70
    drop, (q, k, v) = dropping(0.1), heads((2, 2, 1, T, 16), dtype)
    segments = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, T)).cumsum(axis=1) // 9).to(DEVICE)
    seen = (segments[:, :, None] == segments[:, None])[:, None]
    check_all(
        lambda q, k, v: flash.attention(q, k, v, drop, segments),
        lambda q, k, v: scratch.scaled_dot_product_attention(q, k, v, seen, True, drop),
        [q, k, v],
    )


@pytest.mark.parametrize(("length", "rate"), [(5, 0.1), (32, 0.9), (70, 0.5)])
def test_the_bits_of_a_mask_are_the_oracle_s(length: int, rate: float) -> None:
    drop, shape = dropping(rate, site=35), (1, 2, length)
    bits = torch.ops.lm_torch.attention_mask(drop.key, drop.site, rate, list(shape)).cpu().numpy().view(np.uint32)
    at = np.arange(length)
    ours = (bits[:, at // 32].transpose(0, 2, 1) >> (at % 32).astype(np.uint32)) & 1
    oracle = keep_mask((*shape, length), int(drop.key), drop.site, rate).reshape(ours.shape)
    seen = np.tri(length, dtype=bool)
    np.testing.assert_array_equal(ours[:, seen], oracle[:, seen])


def test_rows_of_several_keys_have_the_masks_that_they_have_alone() -> None:
    keys, site, rate, length = torch.tensor([7, 1234567], device=DEVICE), 3, 0.3, 40
    together = torch.ops.lm_torch.attention_mask(keys, site, rate, [4, 2, length])
    apart = torch.cat([torch.ops.lm_torch.attention_mask(key, site, rate, [2, 2, length]) for key in keys])
    for word, first in enumerate(range(0, length, 32)):  # what no causal query sees is not written
        assert torch.equal(together[:, word, first:], apart[:, word, first:])
    assert not torch.equal(together[:4, 0], together[4:, 0])


def test_the_bits_of_the_parts_of_a_batch_are_those_of_the_whole() -> None:
    site, rate, length = 3, 0.3, 40
    whole = torch.ops.lm_torch.attention_mask(torch.tensor(77, device=DEVICE), site, rate, [4, 2, length])
    keys = [torch.tensor(part_key(77, part), device=DEVICE) for part in range(2)]
    parts = torch.cat([torch.ops.lm_torch.attention_mask(key, site, rate, [2, 2, length]) for key in keys])
    for word, first in enumerate(range(0, length, 32)):  # what no causal query sees is not written
        assert torch.equal(parts[:, word, first:], whole[:, word, first:])


def test_elements_past_the_range_of_a_hash_begin_again() -> None:
    """The index of the last weights is 2^32 and more: the hash takes it modulo 2^32, as the oracle's uint32 does."""
    pairs, length = (1 << 32) // (1 << 20) + 1, 1 << 10
    if INTERPRETED:
        pytest.skip("4,097 matrices of a million weights")
    drop = dropping(0.5)
    bits = torch.ops.lm_torch.attention_mask(drop.key, drop.site, 0.5, [pairs, 1, length])
    assert torch.equal(bits[0].tril(), bits[-1].tril())


@both
def test_fused_attention_takes_the_kernel_where_it_runs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    attention = flash.attention
    monkeypatch.setattr(flash, "attention", lambda *a: calls.append(a) or attention(*a))
    q, k, v = heads((1, 2, 1, 9, 16), dtype)
    fused.scaled_dot_product_attention(q, k, v, is_causal=True, drop=dropping(0.1))
    assert len(calls) == 1
    seen = torch.ones(9, 9, dtype=torch.bool, device=DEVICE)
    fused.scaled_dot_product_attention(q, k, v, seen, True, dropping(0.1))
    fused.scaled_dot_product_attention(q, k, v, is_causal=True, drop=lambda weights: weights)
    fused.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True, drop=dropping(0.1))
    monkeypatch.setattr(kernels, "INSTALLED", False)
    fused.scaled_dot_product_attention(q, k, v, is_causal=True, drop=dropping(0.1))
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # advice of the compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.11's compiler
@pytest.mark.parametrize("backend", [pytest.param("aot_eager" if INTERPRETED else "inductor", marks=LONG)])
@pytest.mark.parametrize("checkpointing", [False] if INTERPRETED else [False, True])
def test_a_model_with_dropout_is_its_scratch_twin_compiled_too(backend: str, checkpointing: bool) -> None:
    config = MODELS["llama" if checkpointing else "testbed-d"].model_copy(update={"dropout": 0.2, "n_layers": 1})
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 31, (2, config.seq_len))).to(DEVICE)
    key, found = torch.tensor(77, device=DEVICE), []
    for kind in (scratch, fused):
        model = LanguageModel(config, kernels=kind, gradient_checkpointing=checkpointing).to(DEVICE)
        model.load_state_dict({name: torch.from_numpy(a) for name, a in rough_arrays(config).items()})
        whole = not checkpointing
        loss = model.loss if kind is scratch else torch.compile(model.loss, backend=backend, fullgraph=whole)
        value = loss(ids, ids, key)
        value.backward()
        found.append((value.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (expected, gradients), (value, ours) = found
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=1e-4, atol=5e-6, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_operators_keep_what_torch_s_compiler_expects_of_them() -> None:
    kept = ("test_schema", "test_autograd_registration", "test_faketensor")
    q, k, v = heads((1, 2, 1, 5, 8), torch.float32)
    key = torch.tensor(5, device=DEVICE)
    torch.library.opcheck(torch.ops.lm_torch.attention_mask.default, (key, 1, 0.5, [1, 2, 5]), test_utils=kept)
    bits = torch.ops.lm_torch.attention_mask(key, 1, 0.5, [1, 2, 5])
    torch.library.opcheck(torch.ops.lm_torch.attention.default, (q, k, v, bits, None, 0.5), test_utils=kept)
    logits, targets = draw(3, 7, dtype=torch.float32).detach(), torch.tensor([6, 0, 3], device=DEVICE)
    arguments = (logits, targets, None, True)
    torch.library.opcheck(torch.ops.lm_torch.softmax_cross_entropy_.default, arguments, test_utils=kept)


# Cross-entropy


@both
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("vocabulary", [2, 31, 20003])
def test_softmax_cross_entropy(vocabulary: int, scaled: bool, dtype: torch.dtype) -> None:
    logits = (5 * draw(4, vocabulary, dtype=dtype)).detach()
    targets = torch.tensor([0, vocabulary - 1, 1, vocabulary // 2], device=DEVICE)
    scale = torch.tensor([1.0, 0.25, 0.0, -2.0], device=DEVICE) if scaled else None
    wide = logits.double().requires_grad_()
    expected = torch.stack([scratch.cross_entropy(row, target) for row, target in zip(wide, targets, strict=True)])
    [gradient] = torch.autograd.grad(expected, wide, torch.ones(4, device=DEVICE) if scale is None else scale)
    kept = logits.clone()
    losses = softmax_cross_entropy_(kept, targets, scale, differentiated=False)
    assert torch.equal(kept, logits)
    assert torch.equal(losses, softmax_cross_entropy_(logits, targets, scale))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    check(logits, gradient, {torch.float32: 1e-5, torch.bfloat16: 4e-3}[dtype])


def test_a_chunk_of_rows_of_a_larger_tensor_is_changed_alone() -> None:
    whole = draw(6, 50, dtype=torch.float32).detach()
    before, targets = whole.clone(), torch.tensor([1, 49], device=DEVICE)
    softmax_cross_entropy_(whole[2:4, :40], targets % 40)
    changed = (whole != before).nonzero()
    assert changed[:, 0].min() == 2
    assert changed[:, 0].max() == 3
    assert changed[:, 1].max() == 39
    with pytest.raises(ValueError, match="contiguous along the vocabulary"):
        softmax_cross_entropy_(whole.t(), torch.zeros(50, dtype=torch.int64, device=DEVICE))


# Heads


@both
@pytest.mark.parametrize(("N", "K", "H", "T"), [(3, 3, 8, 70), (4, 2, 20, 5)])
def test_heads_by_one_product(
    N: int, K: int, H: int, T: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, with upstream gradients laid out by rows and by heads."""
    monkeypatch.setattr("lm_torch.kernels.heads.PROGRAMS", 2)  # of several tiles each
    D, width = 24, (N + 2 * K) * H
    tensors = [draw(2, T, D, dtype=dtype), draw(width, D, dtype=dtype), draw(width, dtype=dtype)]

    def spelled_out(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        parts = scratch.linear(x, weight, bias).split([N * H, K * H, K * H], dim=-1)
        return tuple(part.unflatten(-1, (-1, H)).transpose(1, 2) for part in parts)

    def flat(parts: tuple[Tensor, ...]) -> Tensor:
        by_rows = parts[0].transpose(1, 2).reshape(-1)
        return torch.cat([by_rows, parts[1].flatten(), (parts[2] * parts[2]).transpose(1, 2).flatten()])

    check_all(lambda *t: flat(projected_heads(*t, N, K)), lambda *t: flat(spelled_out(*t)), tensors)


# GELU


@pytest.mark.filterwarnings("ignore:overflow encountered")  # far out, by numpy
@both
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (2, 30, 300)], ids=str)
def test_gelu_of_a_biased_product(
    shape: tuple[int, ...], bias: bool, tanh: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gelu, "PROGRAMS", 3)
    twin = scratch.gelu_tanh if tanh else scratch.gelu
    tensors = [draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype)][: 2 if bias else 1]
    check_all(lambda x, b=None: gelu.bias_gelu(x, b, tanh), lambda x, b=None: twin(x if b is None else x + b), tensors)
    far = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4]], device=DEVICE, dtype=dtype, requires_grad=True)
    y = gelu.bias_gelu(far, None, tanh)
    y.sum().backward()
    assert y[0].tolist() == far.clamp(min=0)[0].tolist()
    assert far.grad[0].tolist() == [0, 0, 0.5, 1, 1]


def test_a_second_derivative_is_refused_by_name() -> None:
    q, k, v = heads((1, 1, 1, 3, 16), torch.float32)
    for y in (flash.attention(q, k, v, dropping(0.1)), gelu.bias_gelu(q, None, True)):
        with pytest.raises(NotImplementedError, match="kernels = scratch"):
            torch.autograd.grad(y.sum(), q, create_graph=True)


# Bits


@pytest.mark.skipif(INTERPRETED, reason="numpy adds in one order")
@both
def test_the_same_input_gives_the_same_bits(dtype: torch.dtype) -> None:
    q, k, v = heads((4, 8, 4, 777, 64), dtype)
    found = []
    for _ in range(3):
        y = flash.attention(q, k, v, dropping(0.1))
        logits = draw(300, 5001, dtype=dtype).detach()
        losses = softmax_cross_entropy_(logits, torch.arange(300, device=DEVICE))
        found.append([y, *torch.autograd.grad(y.float().square().sum(), (q, k, v)), losses, logits])
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))
