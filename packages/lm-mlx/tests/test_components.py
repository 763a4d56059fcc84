"""Each operation of `scratch` and `fused` alone, values and gradients: against MLX's own and float64 numpy."""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lm_core.reference import model as reference
from lm_core.reference.dropout import keep_mask

pytest.importorskip("mlx.core")

import mlx.core as mx
from mlx import nn
from mlx.optimizers import clip_grad_norm

from lm_mlx import fused, scratch
from lm_mlx.attention import rotate
from lm_mlx.clip import clip_by_global_norm
from lm_mlx.dropout import dropout

Array = NDArray[Any]
both = pytest.mark.parametrize("kernels", [scratch, fused], ids=["scratch", "fused"])


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return np.asarray(scale * np.random.default_rng([seed, *shape]).standard_normal(shape), dtype=np.float32)


def values_and_gradients(f: Callable[..., Any], arrays: list[Array], upstream: Array) -> tuple[Array, list[Array]]:
    places = [mx.array(a) for a in arrays]
    y, gradients = mx.vjp(lambda *given: [f(*given)], places, [mx.array(upstream)])
    return np.array(y[0]), [np.array(g) for g in gradients]


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


@both
@pytest.mark.parametrize("shapes", [((2, 3, 5), (4, 5)), ((5,), (4, 5)), ((2, 1, 64, 64), (64, 64))], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(kernels: ModuleType, shapes: tuple[tuple[int, ...], tuple[int, int]], bias: bool) -> None:
    def theirs(x: mx.array, w: mx.array, b: mx.array | None = None) -> mx.array:
        layer = nn.Linear(*shapes[1][::-1], bias=bias)
        layer.update({"weight": w, "bias": b} if bias else {"weight": w})
        return layer(x)

    arrays = [draw(*shapes[0]), draw(*shapes[1]), draw(shapes[1][0])][: 3 if bias else 2]
    check(kernels.linear, theirs, lambda x, w, b=0.0: x @ w.T + b, arrays, 1e-5)


@both
def test_linear_takes_transposed_inputs(kernels: ModuleType) -> None:
    check(
        lambda x, w: kernels.linear(x[..., ::2].swapaxes(0, 1), w.T[:, ::2]),
        lambda x, w: mx.contiguous(x[..., ::2].swapaxes(0, 1)) @ mx.contiguous(w[::2]),
        lambda x, w: x[..., ::2].swapaxes(0, 1) @ w[::2],
        [draw(3, 5, 8), draw(8, 4)],
        1e-5,
    )


@both
def test_the_gradients_of_a_repeated_id_add_up(kernels: ModuleType) -> None:
    ids = np.array([[1, 1, 3], [0, 1, 3]])
    at = mx.array(ids)
    check(lambda w: kernels.embedding(at, w), lambda w: mx.take(w, at, axis=0), lambda w: w[ids], [draw(5, 4)])
    gradient = mx.grad(lambda w: kernels.embedding(at, w).sum())(mx.zeros((5, 4)))
    assert gradient[:, 0].tolist() == [1, 3, 0, 2, 0]


# What acts on the last axis


def layer_norm(x: Array, weight: Array, bias: Array | float = 0.0, eps: float = 1e-5) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Array, eps: float = 1e-5) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "softmax": (lambda x: mx.softmax(x, axis=-1), reference.softmax),
    "silu": (nn.silu, reference.silu),
    "gelu": (nn.gelu, reference.gelu),
    "gelu_tanh": (nn.gelu_approx, reference.gelu_tanh),
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
    x = np.array([-1e4, -100, 0, 100, 1e4], dtype=np.float32)
    y, (gradient,) = values_and_gradients(getattr(kernels, name), [x], np.ones(5, dtype=np.float32))
    np.testing.assert_allclose(y, [0, 0, 0, 100, 1e4], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(gradient, [0, 0, 0.5, 1, 1], rtol=1e-6, atol=1e-30)


@both
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 1, 3, 8)], ids=str)
@pytest.mark.parametrize("scale", [3.0, 0.0, 1e-4])
def test_norms(kernels: ModuleType, shape: tuple[int, ...], scale: float) -> None:
    """Scale 0 is the vector of zeros, whose slope is 1 / sqrt(eps)."""
    x, weight, bias = draw(*shape, scale=scale) + np.float32(2 if scale == 3 else 0), draw(8), draw(8, seed=3)
    check(
        lambda x, w: kernels.rms_norm(x, w, 1e-5),
        lambda x, w: mx.fast.rms_norm(x, w, 1e-5),
        rms_norm,
        [x, weight],
        1e-5,
    )
    for parts in ([weight], [weight, bias]):
        check(
            lambda x, w, b=None: kernels.layer_norm(x, w, b, 1e-5),
            lambda x, w, b=None: mx.fast.layer_norm(x, w, b, 1e-5),
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


def as_4_d(a: mx.array) -> mx.array:
    """[..., N, T, H] -> [B, N, T, H], which MLX's kernel takes."""
    return a.reshape(-1, *a.shape[-3:]) if a.ndim > 2 else a[None, None]


@both
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("seen", ["all", "causal", "mask", "mask and causal"])
def test_attention(kernels: ModuleType, heads: str, seen: str) -> None:
    q_lead, k_lead = HEADS[heads]
    keys = T if "causal" in seen else S
    arrays = [draw(*q_lead, T, H, scale=2), draw(*k_lead, keys, H, seed=3), draw(*k_lead, keys, H, seed=4)]
    mask, causal = MASK[:, :keys] if "mask" in seen else None, "causal" in seen
    seen_by_either = (MASK[:, :keys] if "mask" in seen else np.ones((T, keys), dtype=bool)) & (
        np.tril(np.ones((T, keys), dtype=bool)) if causal else True
    )
    check(
        lambda q, k, v: kernels.scaled_dot_product_attention(q, k, v, None if mask is None else mx.array(mask), causal),
        lambda q, k, v: mx.fast.scaled_dot_product_attention(
            as_4_d(q), as_4_d(k), as_4_d(v), scale=0.5, mask=mx.array(seen_by_either)
        ).reshape(q.shape),
        lambda q, k, v: attention(q, k, v, mask, causal),
        arrays,
        1e-5,
    )


@both
def test_a_mask_may_differ_from_row_to_row(kernels: ModuleType) -> None:
    arrays = [draw(2, 4, 1, H), draw(2, 2, S, H, seed=3), draw(2, 2, S, H, seed=4)]
    mask = (np.arange(S) <= np.array([2, 5])[:, None])[:, None, None]
    ours = kernels.scaled_dot_product_attention(*map(mx.array, arrays), mx.array(mask))
    np.testing.assert_allclose(np.array(ours), attention(*arrays, mask), atol=1e-6)


@both
def test_attention_weights_are_dropped_before_they_mix(kernels: ModuleType) -> None:
    q, k, v = (mx.array(draw(2, T, H, seed=i)) for i in range(3))
    whole = kernels.scaled_dot_product_attention(q, k, v, is_causal=True)
    halved = kernels.scaled_dot_product_attention(q, k, v, is_causal=True, drop=lambda weights: weights / 2)
    np.testing.assert_allclose(np.array(halved), np.array(whole) / 2, rtol=1e-6)
    gone = kernels.scaled_dot_product_attention(q, k, v, drop=lambda weights: weights * (mx.arange(T) == 2))
    kept = mx.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(H), axis=-1)[..., 2:3] * v[:, 2:3]
    np.testing.assert_allclose(np.array(gone), np.array(kept), rtol=1e-5, atol=1e-6)


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
    at = mx.array(targets)
    check(
        lambda x: kernels.cross_entropy(x, at),
        lambda x: nn.losses.cross_entropy(x, at, reduction="mean"),
        lambda x: cross_entropy(x, np.asarray(targets)),
        [draw(*shape, V, scale=3)],
    )


@both
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 15, 1000], ids=lambda rows: f"{rows} rows at a time")
def test_linear_cross_entropy(kernels: ModuleType, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream gradient of `check` is another number than 1."""
    monkeypatch.setattr(fused, "LOGITS_BYTES", rows * 4 * V)
    at = mx.array(TARGETS)
    check(
        lambda x, w, b=None: kernels.linear_cross_entropy(x, w, b, at),
        lambda x, w, b=None: nn.losses.cross_entropy(x @ w.T + (0 if b is None else b), at, reduction="mean"),
        lambda x, w, b=0.0: cross_entropy(x @ w.T + b, TARGETS),
        [draw(3, 5, D), draw(V, D), draw(V, seed=3)][: 3 if bias else 2],
    )


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
    targets = mx.array(np.random.default_rng(1).integers(0, V, rows))
    narrow = [mx.array(a).astype(mx.bfloat16) for a in (draw(rows, D), draw(V, D), draw(V, seed=3))]
    f = mx.value_and_grad(lambda *given: kernels.linear_cross_entropy(*given, targets), argnums=(0, 1, 2))
    (loss, gradients), (expected, wide) = f(*narrow), f(*(a.astype(mx.float32) for a in narrow))
    assert loss.dtype == mx.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    for a, b in zip(gradients, wide, strict=True):
        assert a.dtype == mx.bfloat16
        one, other = np.array(a.astype(mx.float32)), np.array(b)
        assert np.linalg.norm(one - other) < 0.015 * np.linalg.norm(other)


# Extremes


@both
@pytest.mark.parametrize("size", [1e4, 1e38])
def test_huge_logits_do_not_overflow(kernels: ModuleType, size: float) -> None:
    x = np.array([[size, -size, 0.0], [-size, -size, -size], [size, size, -size]], dtype=np.float32)
    expected = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    one = np.zeros((3, 3), dtype=np.float32)
    one[:, 0] = 1
    p, (gradient,) = values_and_gradients(kernels.softmax, [x], one)
    np.testing.assert_allclose(p, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected * (one[:1] - expected[:, :1]), atol=1e-7)
    for target, loss in ((0, (math.log(3) + math.log(2)) / 3), (1, (2 * size + math.log(3) + math.log(2)) / 3)):
        targets = mx.full((3,), target, dtype=mx.int32)
        ours, (gradient,) = values_and_gradients(
            lambda x, at=targets: kernels.cross_entropy(x, at), [x], np.array(1, dtype=np.float32)
        )
        assert float(ours) == pytest.approx(loss, abs=1e-7 * size)
        np.testing.assert_allclose(gradient, (expected - np.eye(3)[target]) / 3, atol=1e-7)


@both
@pytest.mark.parametrize("size", [1e2, 1e19])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_with_huge_scores_takes_the_best_key(kernels: ModuleType, size: float, causal: bool) -> None:
    q, k, v = np.zeros((1, 2, 3, H), np.float32), np.zeros((1, 2, 3, H), np.float32), draw(1, 2, 3, H)
    q[..., 0], k[..., 0] = size, [size, -size, -size]
    y, gradients = values_and_gradients(
        lambda q, k, v: kernels.scaled_dot_product_attention(q, k, v, is_causal=causal), [q, k, v], np.ones_like(v)
    )
    np.testing.assert_allclose(y, np.broadcast_to(v[..., :1, :], v.shape), rtol=1e-6)
    assert not gradients[0].any()
    assert not gradients[1].any()
    np.testing.assert_allclose(gradients[2], np.broadcast_to([[3.0], [0], [0]], v.shape), rtol=1e-6)


@both
def test_activations_keep_bfloat16_and_what_decides_a_scale_is_float32(kernels: ModuleType) -> None:
    x, w, b = (mx.array(draw(*s)).astype(mx.bfloat16) for s in ((2, 16, 32), (32, 32), (32,)))
    heads = x.reshape(2, 16, 4, 8).swapaxes(1, 2)
    calls: dict[str, tuple[Any, ...]] = {
        "linear": (x, w, b),
        "silu": (x,),
        "gelu": (x,),
        "gelu_tanh": (x,),
        "rms_norm": (x, b, 1e-5),
        "layer_norm": (x, b, b, 1e-5),
        "scaled_dot_product_attention": (heads, heads, heads),
        "softmax": (x,),
        "cross_entropy": (x, mx.zeros((2, 16), dtype=mx.int32)),
    }
    for name, arguments in calls.items():
        f = getattr(kernels, name)
        y = f(*arguments)
        wide = f(
            *(a.astype(mx.float32) if isinstance(a, mx.array) and a.dtype == mx.bfloat16 else a for a in arguments)
        )
        assert y.dtype == (mx.float32 if name in ("softmax", "cross_entropy") else mx.bfloat16), name
        np.testing.assert_allclose(np.array(y.astype(mx.float32)), np.array(wide), rtol=0.02, atol=0.02, err_msg=name)


# Positions, dropout, clipping


@pytest.mark.parametrize("shape", [(T, H), (3, T, H), (2, 1, 3, T, H)], ids=str)
def test_rotate_is_mlx_s_own_and_the_reference(shape: tuple[int, ...]) -> None:
    def theirs(x: mx.array) -> mx.array:
        turned = mx.fast.rope(x.reshape(-1, T, H), H, traditional=False, base=100.0, scale=1.0, offset=0)
        return turned.reshape(x.shape)

    check(lambda x: rotate(x, 0, 100.0), theirs, lambda x: reference.rotate(x, 100.0), [draw(*shape)])


def test_an_offset_moves_positions_for_all_rows_or_for_each() -> None:
    x = mx.array(draw(3, 2, 20, H))
    whole = np.array(rotate(x, 0, 100.0))
    np.testing.assert_allclose(np.array(rotate(x[:, :, 7:], 7, 100.0)), whole[:, :, 7:], rtol=1e-5, atol=1e-6)
    offsets = [4, 0, 19]
    single = mx.stack([x[row, :, t : t + 1] for row, t in enumerate(offsets)])
    expected = np.stack([whole[row, :, t : t + 1] for row, t in enumerate(offsets)])
    np.testing.assert_allclose(np.array(rotate(single, mx.array(offsets), 100.0)), expected, rtol=1e-5, atol=1e-6)


def test_rotated_scores_depend_on_the_distance_alone() -> None:
    q, k = (mx.array(draw(1, 8, seed=i)) for i in range(2))
    for distance in (0, 3, 40):
        scores = [(rotate(q, at + distance, 1e4) @ rotate(k, at, 1e4).T).item() for at in (0, 1, 17, 300)]
        np.testing.assert_allclose(scores, scores[0], atol=1e-3)
    assert (rotate(q, 3, 1e4) @ k.T).item() != pytest.approx((rotate(q, 0, 1e4) @ k.T).item(), abs=1e-2)


@pytest.mark.parametrize("rate", [0.1, 0.9])
@pytest.mark.parametrize("key", [0, 12345, 2**32 - 1])
def test_dropout_drops_what_the_reference_does_and_scales_up_the_rest(rate: float, key: int) -> None:
    x, step_key = draw(7, 5, 300), mx.array(key, dtype=mx.uint32)
    y, (gradient,) = values_and_gradients(lambda x: dropout(x, rate, step_key, 3), [x], np.ones_like(x))
    kept = keep_mask(x.shape, key, 3, rate)
    np.testing.assert_allclose(y, x * kept / (1 - rate), rtol=1e-5)
    np.testing.assert_allclose(gradient, kept / (1 - rate), rtol=1e-5)
    assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
    assert not np.array_equal(y, np.array(dropout(mx.array(x), rate, step_key, 4)))
    assert dropout(mx.array(x).astype(mx.bfloat16), rate, step_key, 3).dtype == mx.bfloat16


def test_without_a_key_or_a_rate_nothing_is_dropped() -> None:
    x = mx.array(draw(7))
    assert dropout(x, 0.5, None, 0) is x
    assert dropout(x, 0.0, mx.array(1, dtype=mx.uint32), 0) is x


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e4, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 0.0])
def test_clipping_is_mlx_s_own_and_0_does_not_clip(max_norm: float, scale: float) -> None:
    gradients = {str(s): draw(*s, scale=scale) for s in ((3, 4), (7,), (1, 1, 2))}
    given = {name: mx.array(g) for name, g in gradients.items()}
    ours, norm, norms = clip_by_global_norm(given, max_norm)
    assert norms.tolist() == pytest.approx([float(np.linalg.norm(g)) for g in gradients.values()])
    theirs, norm_theirs = clip_grad_norm(given, max_norm or 1e30)
    assert norm.item() == pytest.approx(norm_theirs.item(), rel=1e-6)
    assert norm.item() == pytest.approx(math.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients.values())))
    for name in given:
        np.testing.assert_allclose(np.array(ours[name]), np.array(theirs[name]), rtol=1e-5)
