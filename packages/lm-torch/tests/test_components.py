"""Each operation of `scratch` and `fused` alone, values and gradients: against torch's own and float64 numpy."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lm_core.reference import model as reference
from lm_core.reference.dropout import keep_mask
from lm_torch import fused, onednn, scratch
from lm_torch.attention import rotate
from lm_torch.clip import clip_by_global_norm
from lm_torch.dropout import dropout

Array = NDArray[Any]
both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return np.asarray(scale * np.random.default_rng([seed, *shape]).standard_normal(shape), dtype=np.float32)


def values_and_gradients(f: Callable[..., Any], arrays: list[Array], upstream: Array) -> tuple[Array, list[Array]]:
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    y = f(*tensors)
    y.backward(torch.from_numpy(upstream))
    return y.detach().numpy(), [t.grad.numpy() for t in tensors]


def check(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    oracle: Callable[..., Any],
    arrays: list[Array],
    tolerance: float = 2e-6,
) -> None:
    """Values and gradients agree, relative to the largest of each; the oracle's slopes are central differences."""
    wide = [a.astype(np.float64) for a in arrays]
    expected = np.asarray(oracle(*wide))
    upstream = draw(*expected.shape, seed=1)
    y, gradients = values_and_gradients(ours, arrays, upstream)
    y_theirs, gradients_theirs = values_and_gradients(theirs, arrays, upstream)
    assert y.shape == expected.shape
    for one, other in ((y, expected), (y, y_theirs), *zip(gradients, gradients_theirs, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1.0, float(np.abs(other).max())))
    for i, gradient in enumerate(gradients):
        direction = draw(*wide[i].shape, seed=2).astype(np.float64)
        ends = [(upstream * oracle(*wide[:i], wide[i] + h * direction, *wide[i + 1 :])).sum() for h in (1e-6, -1e-6)]
        scale = max(1.0, float(np.linalg.norm(gradient) * np.linalg.norm(direction)))
        assert abs((ends[0] - ends[1]) / 2e-6 - (gradient * direction).sum()) < 1e-5 * scale, f"argument {i}"


# Linear and embedding

SMALL, LARGE = ((2, 3, 5), (4, 5)), ((4, 64, 64), (64, 64))


@both
@pytest.mark.parametrize("shapes", [SMALL, LARGE, ((5,), (4, 5)), ((1024,), (1024, 1024))], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(kernels: ModuleType, shapes: tuple[tuple[int, ...], tuple[int, int]], bias: bool) -> None:
    x, w = (draw(*shape) for shape in shapes)
    on_one = onednn.is_better(torch.from_numpy(x), torch.from_numpy(w))
    assert on_one == (onednn.USED and math.prod(shapes[0]) > 1000)
    arrays = [x, w, draw(shapes[1][0])][: 3 if bias else 2]
    check(kernels.linear, F.linear, lambda x, w, b=0.0: x @ w.T + b, arrays, tolerance=1e-5)


@both
@pytest.mark.parametrize("size", [5, 128])
def test_linear_takes_transposed_inputs(kernels: ModuleType, size: int) -> None:
    arrays = [draw(size, size - 1), draw(size, size + 1)]
    check(lambda x, w: kernels.linear(x.mT, w.mT), lambda x, w: x.mT @ w, lambda x, w: x.T @ w, arrays, 1e-5)
    strided = [draw(3, size, 2 * size), draw(size, 2 * size)]
    check(
        lambda x, w: kernels.linear(x[..., ::2].transpose(0, 1), w[:, ::2]),
        lambda x, w: F.linear(x[..., ::2].transpose(0, 1), w[:, ::2]),
        lambda x, w: x[..., ::2].swapaxes(0, 1) @ w[:, ::2].T,
        strided,
        1e-5,
    )


@both
@pytest.mark.parametrize("size", [5, 128])
def test_linear_takes_an_upstream_gradient_that_is_one_number_expanded(kernels: ModuleType, size: int) -> None:
    x, w, b = (torch.from_numpy(draw(*s)).requires_grad_() for s in ((2, size, size), (size, size), (size,)))
    kernels.linear(x, w, b).sum().backward()
    torch.testing.assert_close(x.grad, w.sum(dim=0).expand_as(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.grad, x.sum(dim=(0, 1)).expand_as(w), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(b.grad, torch.full((size,), 2.0 * size))


@pytest.mark.parametrize("needed", range(3))
def test_a_large_linear_gives_gradients_to_those_that_ask_alone(needed: int) -> None:
    tensors = [torch.from_numpy(draw(*s)) for s in (*LARGE, (64,))]
    tensors[needed].requires_grad_()
    fused.linear(*tensors).square().sum().backward()
    assert [t.grad is not None for t in tensors] == [i == needed for i in range(3)]


@both
def test_the_gradients_of_a_repeated_id_add_up(kernels: ModuleType) -> None:
    ids = np.array([[1, 1, 3], [0, 1, 3]])
    at = torch.from_numpy(ids)
    check(lambda w: kernels.embedding(at, w), lambda w: F.embedding(at, w), lambda w: w[ids], [draw(5, 4)])
    table = torch.zeros(5, 4, requires_grad=True)
    kernels.embedding(at, table).sum().backward()
    assert table.grad[:, 0].tolist() == [1, 3, 0, 2, 0]


# What acts on the last axis


def layer_norm(x: Array, weight: Array, bias: Array | float = 0.0, eps: float = 1e-5) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Array, eps: float = 1e-5) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "softmax": (lambda x: torch.softmax(x, -1), reference.softmax),
    "silu": (F.silu, reference.silu),
    "gelu": (F.gelu, reference.gelu),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), reference.gelu_tanh),
}


@both
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 1, 3, 7)], ids=str)
def test_softmax_and_the_nonlinearities(kernels: ModuleType, name: str, shape: tuple[int, ...]) -> None:
    check(getattr(kernels, name), *ELEMENTWISE[name], [draw(*shape, scale=3)])


@both
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_and_gelu(kernels: ModuleType, bias: bool, tanh: bool) -> None:
    theirs, oracle = ELEMENTWISE["gelu_tanh" if tanh else "gelu"]
    arrays = [draw(2, 3, 5), draw(4, 5), draw(4)][: 3 if bias else 2]
    check(
        lambda x, w, b=None: kernels.linear_gelu(x, w, b, tanh),
        lambda x, w, b=0.0: theirs(x @ w.T + b),
        lambda x, w, b=0.0: oracle(x @ w.T + b),
        arrays,
    )


@both
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
def test_the_nonlinearities_are_0_and_the_identity_far_out(kernels: ModuleType, name: str) -> None:
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    y = getattr(kernels, name)(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.tensor([0, 0, 0, 100, 1e4]), rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(x.grad, torch.tensor([0, 0, 0.5, 1, 1]), rtol=1e-6, atol=1e-30)


@both
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 1, 3, 8)], ids=str)
@pytest.mark.parametrize("scale", [3.0, 0.0, 1e-4])
def test_norms(kernels: ModuleType, shape: tuple[int, ...], scale: float) -> None:
    """Scale 0 is the vector of zeros, whose slope is 1 / sqrt(eps)."""
    x, weight, bias = draw(*shape, scale=scale) + (2 if scale == 3 else 0), draw(8), draw(8, seed=3)
    check(
        lambda x, w: kernels.rms_norm(x, w, 1e-5),
        lambda x, w: F.rms_norm(x, (8,), w, 1e-5),
        rms_norm,
        [x, weight],
        1e-5,
    )
    for parts in ([weight], [weight, bias]):
        check(
            lambda x, w, b=None: kernels.layer_norm(x, w, b, 1e-5),
            lambda x, w, b=None: F.layer_norm(x, (8,), w, b, 1e-5),
            layer_norm,
            [x, *parts],
            1e-5,
        )


# Attention


def attention(q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False) -> Array:
    """Head by head, query by query."""
    if k.ndim > 2 and k.shape[-3] != q.shape[-3]:
        k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    T, S = q.shape[-2], k.shape[-2]
    seen = np.ones((T, S), dtype=bool) if mask is None else mask
    if causal:
        seen = seen & (np.arange(S) <= np.arange(T)[:, None])
    seen = np.broadcast_to(seen, (*q.shape[:-1], S))
    y = np.empty((*q.shape[:-1], v.shape[-1]))
    for place in np.ndindex(*q.shape[:-1]):
        keys, values, may = k[place[:-1]], v[place[:-1]], seen[place]
        y[place] = reference.softmax(keys[may] @ q[place] / math.sqrt(q.shape[-1])) @ values[may]
    return y


T, S, H = 5, 7, 4
MASK = np.random.default_rng(0).random((T, S)) < 0.5
MASK[:, 0] = True
HEADS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "2-D": ((), ()),
    "3-D": ((3,), (3,)),
    "4-D": ((2, 3), (2, 3)),
    "5-D": ((2, 1, 3), (2, 1, 3)),
    "3-D grouped": ((6,), (2,)),
    "4-D grouped": ((2, 4), (2, 2)),
    "4-D one kv head": ((2, 4), (2, 1)),
    "5-D grouped": ((2, 1, 4), (2, 1, 2)),
}


@both
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("seen", ["all", "causal", "mask", "mask and causal"])
def test_attention(kernels: ModuleType, heads: str, seen: str) -> None:
    q_lead, k_lead = HEADS[heads]
    keys = T if "causal" in seen else S
    arrays = [draw(*q_lead, T, H, scale=2), draw(*k_lead, keys, H, seed=3), draw(*k_lead, keys, H, seed=4)]
    mask, causal = MASK[:, :keys] if "mask" in seen else None, "causal" in seen
    allowed = None if mask is None else torch.from_numpy(mask)
    own = allowed
    if causal and mask is not None:
        own = allowed & torch.ones(T, T, dtype=torch.bool).tril()  # torch takes one of the two
    check(
        lambda q, k, v: kernels.scaled_dot_product_attention(q, k, v, allowed, causal),
        lambda q, k, v: F.scaled_dot_product_attention(
            q[None], k[None], v[None], own, is_causal=causal and own is None, enable_gqa=q_lead != k_lead
        )[0],
        lambda q, k, v: attention(q, k, v, mask, causal),
        arrays,
        1e-5,
    )


@both
def test_a_mask_may_differ_from_row_to_row(kernels: ModuleType) -> None:
    arrays = [draw(2, 4, 1, H), draw(2, 2, S, H, seed=3), draw(2, 2, S, H, seed=4)]
    mask = (np.arange(S) <= np.array([2, 5])[:, None])[:, None, None]
    ours = kernels.scaled_dot_product_attention(*map(torch.from_numpy, arrays), torch.from_numpy(mask))
    np.testing.assert_allclose(ours, attention(*arrays, mask), atol=1e-6)


@both
def test_attention_weights_are_dropped_before_they_mix(kernels: ModuleType) -> None:
    q, k, v = (torch.from_numpy(draw(2, T, H, seed=i)) for i in range(3))
    halved = kernels.scaled_dot_product_attention(q, k, v, is_causal=True, drop=lambda weights: weights / 2)
    torch.testing.assert_close(halved, kernels.scaled_dot_product_attention(q, k, v, is_causal=True) / 2)
    gone = kernels.scaled_dot_product_attention(q, k, v, drop=lambda weights: weights * (torch.arange(T) == 2))
    kept = torch.softmax(q @ k.mT / math.sqrt(H), -1)[..., 2:3] * v[:, 2:3]
    torch.testing.assert_close(gone, kept)


# Losses


def cross_entropy(logits: Array, targets: Array) -> Array:
    top = logits.max(axis=-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], axis=-1).mean()


V, D = 11, 6
TARGETS = np.random.default_rng(0).integers(0, V, (3, 5))


@both
@pytest.mark.parametrize("shape", [(), (5,), (3, 5)], ids=str)
def test_cross_entropy(kernels: ModuleType, shape: tuple[int, ...]) -> None:
    targets = TARGETS[(0,) * (2 - len(shape))]
    at = torch.as_tensor(targets)
    check(
        lambda x: kernels.cross_entropy(x, at),
        lambda x: F.cross_entropy(x.view(-1, V), at.view(-1)),
        lambda x: cross_entropy(x, np.asarray(targets)),
        [draw(*shape, V, scale=3)],
    )


@both
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 15, 1000], ids=lambda rows: f"{rows} rows at a time")
def test_linear_cross_entropy(kernels: ModuleType, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream gradient of `check` is another number than 1."""
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    at = torch.from_numpy(TARGETS)
    check(
        lambda x, w, b=None: kernels.linear_cross_entropy(x, w, b, at),
        lambda x, w, b=None: F.cross_entropy(F.linear(x, w, b).view(-1, V), at.view(-1)),
        lambda x, w, b=0.0: cross_entropy(x @ w.T + b, TARGETS),
        [draw(3, 5, D), draw(V, D), draw(V, seed=3)][: 3 if bias else 2],
    )


@both
def test_a_loss_is_the_same_with_and_without_gradients(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LOGITS_BYTES", 16 * V)
    arguments = [torch.from_numpy(a).requires_grad_() for a in (draw(3, 5, D), draw(V, D), draw(V, seed=3))]
    tracked = kernels.linear_cross_entropy(*arguments, torch.from_numpy(TARGETS))
    with torch.no_grad():
        untracked = kernels.linear_cross_entropy(*arguments, torch.from_numpy(TARGETS))
    assert tracked.requires_grad
    assert not untracked.requires_grad
    assert tracked.item() == untracked.item()
    tracked.backward()
    once = [a.grad.clone() for a in arguments]
    kernels.linear_cross_entropy(*arguments, torch.from_numpy(TARGETS)).backward()
    for a, gradient in zip(arguments, once, strict=True):
        torch.testing.assert_close(a.grad, 2 * gradient)


@pytest.mark.parametrize(
    ("kernels", "chunks"),
    [
        (scratch, 1),
        (fused, 1),
        (fused, 512),
    ],
)
def test_a_loss_in_bfloat16_is_the_float32_one_s(
    kernels: ModuleType, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many chunks add up: one more is not lost in the sum of those before."""
    rows = 512
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows // chunks * 4 * V)
    targets = torch.from_numpy(np.random.default_rng(1).integers(0, V, rows))
    narrow = [torch.from_numpy(a).bfloat16().requires_grad_() for a in (draw(rows, D), draw(V, D), draw(V, seed=3))]
    wide = [a.detach().float().requires_grad_() for a in narrow]
    loss, expected = (kernels.linear_cross_entropy(*arguments, targets) for arguments in (narrow, wide))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    loss.backward()
    expected.backward()
    for a, b in zip(narrow, wide, strict=True):
        assert a.grad.dtype == torch.bfloat16
        assert (a.grad.float() - b.grad).norm() < 0.015 * b.grad.norm()


# Extremes


@both
@pytest.mark.parametrize("size", [1e4, 1e38])
def test_huge_logits_do_not_overflow(kernels: ModuleType, size: float) -> None:
    x = torch.tensor([[size, -size, 0.0], [-size, -size, -size], [size, size, -size]], requires_grad=True)
    expected = torch.tensor([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    p = kernels.softmax(x)
    torch.testing.assert_close(p, expected)
    p[:, 0].sum().backward()
    torch.testing.assert_close(x.grad, expected * (torch.tensor([[1.0, 0, 0]]) - expected[:, :1]))
    for target, loss in ((0, (math.log(3) + math.log(2)) / 3), (1, (2 * size + math.log(3) + math.log(2)) / 3)):
        x.grad = None
        targets = torch.full((3,), target)
        ours = kernels.cross_entropy(x, targets)
        assert ours.item() == pytest.approx(loss, abs=1e-7 * size)
        ours.backward()
        torch.testing.assert_close(x.grad, (expected - F.one_hot(targets, 3)) / 3)


@both
def test_a_head_with_huge_logits_has_a_finite_loss_and_gradient(kernels: ModuleType) -> None:
    x, w = torch.full((4, D), 1e4, requires_grad=True), torch.zeros(V, D)
    w[1], w[2] = 1e4, -1e4
    w.requires_grad_()
    loss = kernels.linear_cross_entropy(x, w, None, torch.tensor([1, 1, 2, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(D * 1e8, rel=1e-6)
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0, 5e3, 5e3])[:, None].expand(4, D))
    torch.testing.assert_close(w.grad[1:3], torch.tensor([[5e3], [-5e3]]).expand(2, D))
    assert not w.grad[3:].any()


@both
@pytest.mark.parametrize("size", [1e2, 1e19])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_with_huge_scores_takes_the_best_key(kernels: ModuleType, size: float, causal: bool) -> None:
    q, k = torch.zeros(1, 2, 3, H), torch.zeros(1, 2, 3, H)
    q[..., 0], k[..., 0] = size, torch.tensor([size, -size, -size])
    v = torch.from_numpy(draw(1, 2, 3, H))
    arguments = [a.requires_grad_() for a in (q, k, v)]
    y = kernels.scaled_dot_product_attention(*arguments, is_causal=causal)
    torch.testing.assert_close(y, v[..., :1, :].expand_as(v))
    y.sum().backward()
    assert not q.grad.any()
    assert not k.grad.any()
    torch.testing.assert_close(v.grad, torch.tensor([3.0, 0, 0])[:, None].expand_as(v))


@both
def test_activations_keep_bfloat16_and_what_decides_a_scale_is_float32(kernels: ModuleType) -> None:
    x, w, b = (torch.from_numpy(draw(*s)).bfloat16() for s in ((2, 16, 32), (32, 32), (32,)))
    heads = x.view(2, 16, 4, 8).transpose(1, 2)
    calls: dict[str, tuple[Any, ...]] = {
        "linear": (x, w, b),
        "silu": (x,),
        "gelu": (x,),
        "gelu_tanh": (x,),
        "rms_norm": (x, b, 1e-5),
        "layer_norm": (x, b, b, 1e-5),
        "scaled_dot_product_attention": (heads, heads, heads),
        "softmax": (x,),
        "cross_entropy": (x, torch.zeros(2, 16, dtype=torch.int64)),
    }
    for name, arguments in calls.items():
        f = getattr(kernels, name)
        y = f(*arguments)
        wide = f(*(a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments))
        assert y.dtype == (torch.float32 if name in ("softmax", "cross_entropy") else torch.bfloat16), name
        torch.testing.assert_close(y.float(), wide, rtol=0.02, atol=0.02, msg=name)


# Positions, dropout, clipping


@pytest.mark.parametrize("shape", [(T, H), (3, T, H), (2, 1, 3, T, H)], ids=str)
def test_rotate_is_a_complex_product_and_the_reference(shape: tuple[int, ...]) -> None:
    def theirs(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(T)[:, None] * 100.0 ** (-torch.arange(H // 2) / (H // 2))
        z = torch.complex(*x.split(H // 2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([z.real, z.imag], dim=-1)

    check(lambda x: rotate(x, 0, 100.0), theirs, lambda x: reference.rotate(x, 100.0), [draw(*shape)])


def test_an_offset_moves_positions_for_all_rows_or_for_each() -> None:
    x = torch.from_numpy(draw(3, 2, 20, H))
    whole = rotate(x, 0, 100.0)
    torch.testing.assert_close(rotate(x[:, :, 7:], 7, 100.0), whole[:, :, 7:], rtol=1e-5, atol=1e-6)
    offsets = torch.tensor([4, 0, 19])
    single = torch.stack([row[:, t : t + 1] for row, t in zip(x, offsets, strict=True)])
    expected = torch.stack([row[:, t : t + 1] for row, t in zip(whole, offsets, strict=True)])
    torch.testing.assert_close(rotate(single, offsets, 100.0), expected, rtol=1e-5, atol=1e-6)


def test_rotated_scores_depend_on_the_distance_alone() -> None:
    q, k = (torch.from_numpy(draw(1, 8, seed=i)) for i in range(2))
    for distance in (0, 3, 40):
        scores = [(rotate(q, at + distance, 1e4) @ rotate(k, at, 1e4).mT).item() for at in (0, 1, 17, 300)]
        np.testing.assert_allclose(scores, scores[0], atol=1e-3)
    assert (rotate(q, 3, 1e4) @ k.mT).item() != pytest.approx((rotate(q, 0, 1e4) @ k.mT).item(), abs=1e-2)


@pytest.mark.parametrize("rate", [0.1, 0.9])
@pytest.mark.parametrize("key", [0, 12345, 2**32 - 1])
def test_dropout_drops_what_the_reference_does_and_scales_up_the_rest(rate: float, key: int) -> None:
    x = torch.from_numpy(draw(7, 5, 300)).requires_grad_()
    y = dropout(x, rate, torch.tensor(key), 3)
    kept = torch.from_numpy(keep_mask((7, 5, 300), key, 3, rate))
    torch.testing.assert_close(y, x * kept / (1 - rate))
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept / (1 - rate))
    assert (y == 0).float().mean().item() == pytest.approx(rate, abs=0.02)
    assert not torch.equal(y, dropout(x, rate, torch.tensor(key), 4))
    assert dropout(x.bfloat16(), rate, torch.tensor(key), 3).dtype == torch.bfloat16


def test_without_a_key_or_a_rate_nothing_is_dropped() -> None:
    x = torch.from_numpy(draw(7))
    assert dropout(x, 0.5, None, 0) is x
    assert dropout(x, 0.0, torch.tensor(1), 0) is x


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e4, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 0.0])
def test_clipping_is_torch_s_own_and_0_does_not_clip(max_norm: float, scale: float) -> None:
    gradients = [draw(*s, scale=scale) for s in ((3, 4), (7,), (1, 1, 2))]
    ours = [torch.from_numpy(g.copy()) for g in gradients]
    params = [torch.zeros_like(g).requires_grad_() for g in ours]
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.from_numpy(g.copy())
    expected = torch.nn.utils.clip_grad_norm_(params, max_norm or math.inf)
    norm, norms, factor = clip_by_global_norm(ours, max_norm)
    assert (factor is None) == (max_norm == 0)
    torch.testing.assert_close(norm, expected)
    assert norms.tolist() == pytest.approx([float(np.linalg.norm(g)) for g in gradients])
    assert norm.item() == pytest.approx(math.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients)), rel=1e-6)
    for g, p in zip(ours, params, strict=True):
        torch.testing.assert_close(g if factor is None else g * factor, p.grad)
