"""The float64 model: causal, and equal to what the papers' formulas say where a formula can be checked by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.config import ModelConfig
from lm_core.model.init import initial_arrays
from lm_core.model.positions import sinusoids
from lm_core.reference import model

V, T, D, N = 11, 6, 16, 4
IDS = np.array([[1, 7, 3, 10, 0, 5], [2, 2, 9, 4, 8, 6]])
VARIANTS = [
    {"norm": norm, "mlp": mlp, "positions": positions, "n_kv_heads": kv_heads, "tie_embeddings": kv_heads == 2}
    for norm, mlp, positions, kv_heads in itertools.product(
        ["layer", "rms"], ["gelu", "gelu_tanh", "swiglu"], ["learned", "rope", "sinusoidal", "none"], [None, 2]
    )
]


def config(**changes: Any) -> ModelConfig:
    shape = {"vocab_size": V, "seq_len": T, "d_model": D, "n_layers": 2, "n_heads": N, "init_std": 0.5}
    return ModelConfig(**{**shape, **changes})


def weights(c: ModelConfig) -> dict[str, Any]:
    """Initial weights with random biases, so that a bias that is left out shows."""
    draw = np.random.default_rng(0)
    return {
        name: draw.standard_normal(array.shape) if name.endswith(".bias") else array
        for name, array in initial_arrays(c, seed=0).items()
    }


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_logits_are_finite_and_depend_on_what_came_before_and_never_on_what_comes_after(
    changes: dict[str, Any],
) -> None:
    c = config(**changes)
    arrays = weights(c)
    before = model.logits(c, arrays, IDS)
    assert before.shape == (2, T, V)
    assert np.isfinite(before).all()
    for t in range(T):
        ids = IDS.copy()
        ids[0, t] = (ids[0, t] + 1) % V
        after = model.logits(c, arrays, ids)
        np.testing.assert_array_equal(after[0, :t], before[0, :t])
        np.testing.assert_array_equal(after[1], before[1])
        assert (np.abs(after[0, t:] - before[0, t:]).max(axis=-1) > 1e-6).all()


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_attention_weights_are_those_by_which_attention_mixes_its_values(changes: dict[str, Any]) -> None:
    c = config(**changes)
    arrays = weights(c)
    mixing = model.attention_weights(c, arrays, IDS, layer=0)
    assert mixing.shape == (2, N, T, T)
    np.testing.assert_allclose(mixing.sum(axis=-1), 1, rtol=1e-12)
    assert not np.triu(mixing, 1).any()
    # The stream before the first block, from the table and the positions alone.
    x = arrays["embed.weight"][IDS].astype(np.float64)
    if c.positions == "learned":
        x = x + arrays["pos_embed.weight"][:T]
    if c.positions == "sinusoidal":
        x = x + sinusoids(T, D)
    normal = model.normalize(c, arrays, "blocks.0.attn_norm", x)
    values = model.linear(arrays, "blocks.0.attn.v_proj", normal).reshape(2, T, c.kv_heads, c.head_dim)
    values = values.repeat(N // c.kv_heads, axis=2)
    mixed = np.einsum("bnts,bsnh->btnh", mixing, values).reshape(2, T, D)
    expected = model.attention(c, arrays, "blocks.0.attn", normal)
    np.testing.assert_allclose(model.linear(arrays, "blocks.0.attn.o_proj", mixed), expected, rtol=1e-9, atol=1e-12)


def test_attention_weights_of_a_layer_depend_on_the_layers_before_it_alone() -> None:
    c = config()
    arrays = weights(c)
    changed = arrays | {"blocks.0.mlp.up_proj.weight": -arrays["blocks.0.mlp.up_proj.weight"]}
    same, other = (
        np.array_equal(*(model.attention_weights(c, each, IDS, layer) for each in (arrays, changed)))
        for layer in (0, 1)
    )
    assert (same, other) == (True, False)


def test_a_shorter_text_has_the_logits_of_the_longer_ones_beginning() -> None:
    for positions in ("learned", "rope", "sinusoidal", "none"):
        c = config(positions=positions)
        whole = model.logits(c, weights(c), IDS)
        np.testing.assert_allclose(model.logits(c, weights(c), IDS[:, :4]), whole[:, :4], rtol=1e-12, atol=1e-12)


def test_a_head_of_zeros_loses_ln_v_and_a_certain_one_nothing() -> None:
    c = config(head_bias=True)
    arrays = weights(c) | {"lm_head.weight": np.zeros((V, D)), "lm_head.bias": np.zeros(V)}
    assert model.loss(c, arrays, IDS, np.roll(IDS, -1, axis=1)) == pytest.approx(math.log(V), rel=1e-14)
    arrays["lm_head.bias"][3] = 1e6
    assert model.loss(c, arrays, IDS, np.full_like(IDS, 3)) == 0.0


def test_the_loss_is_the_mean_of_minus_log_softmax() -> None:
    c = config()
    targets = np.roll(IDS, -1, axis=1)
    probabilities = model.softmax(model.logits(c, weights(c), IDS))
    chosen = [probabilities[b, t, targets[b, t]] for b in range(2) for t in range(T)]
    assert model.loss(c, weights(c), IDS, targets) == pytest.approx(-np.log(chosen).mean(), rel=1e-12)


def test_the_loss_is_linear_in_the_weights_and_divides_by_the_number_of_targets() -> None:
    c, targets = config(), np.roll(IDS, -1, axis=1)
    losses = model.score(c, weights(c), IDS, targets)
    factors = np.random.default_rng(0).standard_normal(IDS.shape)
    assert model.loss(c, weights(c), IDS, targets, factors) == pytest.approx((losses * factors).sum() / 12, rel=1e-12)
    assert model.loss(c, weights(c), IDS, targets, np.ones(IDS.shape)) == model.loss(c, weights(c), IDS, targets)


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_packed_documents_have_the_losses_of_each_alone(changes: dict[str, Any]) -> None:
    """The last row has the number of its first document again: it is another document."""
    c, arrays = config(**changes), weights(config(**changes))
    ids, segments = (
        np.concatenate([IDS, IDS[:1]]),
        np.array([[3, 3, 3, 3, 3, 3], [0, 0, 1, 2, 2, 2], [1, 1, 2, 2, 1, 1]]),
    )
    targets = np.roll(ids, -1, axis=1)
    alone = [
        [model.score(c, arrays, ids[row : row + 1, a:b], targets[row : row + 1, a:b])[0] for a, b in stretches]
        for row, stretches in enumerate([[(0, 6)], [(0, 2), (2, 3), (3, 6)], [(0, 2), (2, 4), (4, 6)]])
    ]
    packed = model.score(c, arrays, ids, targets, segments)
    np.testing.assert_allclose(packed, [np.concatenate(row) for row in alone], rtol=1e-12, atol=1e-12)


def test_huge_logits_do_not_overflow() -> None:
    c = config()
    arrays = weights(c) | {"lm_head.weight": np.full((V, D), 1e300) * np.arange(V)[:, None]}
    assert not math.isnan(model.loss(c, arrays, IDS, IDS))


def test_attention_is_each_heads_mean_of_earlier_values_weighted_by_its_scores() -> None:
    c, x = config(positions="none", n_kv_heads=2), np.random.default_rng(0).standard_normal((1, T, D))
    arrays, H = weights(c), c.head_dim
    q, k, v = (model.linear(arrays, f"blocks.0.attn.{name}_proj", x)[0] for name in "qkv")
    mixed = np.zeros((T, D))
    for n, t in itertools.product(range(N), range(T)):
        own, shared = slice(n * H, (n + 1) * H), slice(n // 2 * H, (n // 2 + 1) * H)
        scores = [math.exp(q[t, own] @ k[s, shared] / math.sqrt(H)) for s in range(t + 1)]
        mixed[t, own] = sum(score * v[s, shared] for s, score in enumerate(scores)) / sum(scores)
    expected = model.linear(arrays, "blocks.0.attn.o_proj", mixed)
    np.testing.assert_allclose(model.attention(c, arrays, "blocks.0.attn", x)[0], expected, rtol=1e-10)


def test_as_many_kv_heads_as_heads_is_plain_attention() -> None:
    plain, grouped = config(), config(n_kv_heads=N)
    np.testing.assert_array_equal(
        model.logits(plain, weights(plain), IDS), model.logits(grouped, weights(grouped), IDS)
    )


def test_grouped_attention_is_plain_attention_whose_heads_share_keys_and_values() -> None:
    grouped, plain = config(n_kv_heads=2), config()
    arrays = weights(grouped)
    H = grouped.head_dim
    shared = {
        name: np.repeat(a.reshape(2, H, *a.shape[1:]), N // 2, axis=0).reshape(D, *a.shape[1:])
        if "k_proj" in name or "v_proj" in name
        else a
        for name, a in arrays.items()
    }
    np.testing.assert_allclose(model.logits(plain, shared, IDS), model.logits(grouped, arrays, IDS), rtol=1e-12)


def test_a_block_adds_to_the_stream_so_one_that_says_nothing_changes_nothing() -> None:
    c = config()
    arrays = {
        name: np.zeros_like(array) if "o_proj" in name or "down_proj" in name else array
        for name, array in weights(c).items()
    }
    x = arrays["embed.weight"].astype(float)[IDS] + arrays["pos_embed.weight"]
    expected = model.linear(arrays, "lm_head", model.normalize(c, arrays, "norm", x))
    np.testing.assert_allclose(model.logits(c, arrays, IDS), expected, rtol=1e-12)


def test_a_tied_head_is_the_token_table() -> None:
    tied, untied = config(tie_embeddings=True), config()
    arrays = weights(tied)
    copied = arrays | {"lm_head.weight": arrays["embed.weight"]}
    np.testing.assert_array_equal(model.logits(tied, arrays, IDS), model.logits(untied, copied, IDS))


# Positions


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20), st.floats(2, 1e6), st.integers(0, 99))
def test_rotary_scores_depend_on_the_distance_alone(i: int, j: int, shift: int, theta: float, seed: int) -> None:
    q, k = np.random.default_rng(seed).standard_normal((2, 1, 8))
    q_at, k_at = (model.rotate(np.repeat(x, 30, axis=0), theta) for x in (q, k))
    assert q_at[i] @ k_at[j] == pytest.approx(q_at[i + shift] @ k_at[j + shift], rel=1e-9, abs=1e-9)


def test_rotation_keeps_lengths_and_leaves_the_first_position_alone() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 8))
    turned = model.rotate(x, 10_000.0)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1))
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    a, b = x[0, 1, 0], x[0, 1, 4]
    assert turned[0, 1, 0] == pytest.approx(a * math.cos(1) - b * math.sin(1))


@pytest.mark.parametrize(
    ("positions", "matters"), [("learned", True), ("rope", True), ("sinusoidal", True), ("none", False)]
)
def test_the_order_of_earlier_tokens_matters_only_with_a_position_signal(positions: str, matters: bool) -> None:
    c = config(positions=positions, n_layers=1)
    shuffled = IDS[:, [3, 1, 0, 2, 4, 5]]
    last, other = (model.logits(c, weights(c), ids)[:, -1] for ids in (IDS, shuffled))
    assert np.allclose(last, other, rtol=1e-10) != matters


# Pieces


def test_layer_norm_centres_and_scales_and_rms_norm_scales_alone() -> None:
    x = np.random.default_rng(0).standard_normal((4, D)) * 3 + 5
    arrays = {"norm.weight": np.full(D, 2.0), "norm.bias": np.full(D, 1.0)}
    layer = model.normalize(config(norm_eps=1e-12), arrays, "norm", x)
    np.testing.assert_allclose(layer, 1 + 2 * (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True))
    rms = model.normalize(config(norm="rms", norm_eps=1e-12), {"norm.weight": np.full(D, 2.0)}, "norm", x)
    np.testing.assert_allclose(rms, 2 * x / np.sqrt((x**2).mean(-1, keepdims=True)))


def test_a_vector_of_zeros_is_normalized_to_zeros() -> None:
    for norm in ("layer", "rms"):
        zeros = model.normalize(config(norm=norm), {"norm.weight": np.ones(D)}, "norm", np.zeros((1, D)))
        np.testing.assert_array_equal(zeros, 0)


def test_the_nonlinearities_at_known_points() -> None:
    x = np.array([-10.0, -1.0, 0.0, 1.0, 10.0])
    np.testing.assert_allclose(model.gelu(x), [0, -0.15865525393145707, 0, 0.8413447460685429, 10], atol=1e-15)
    np.testing.assert_allclose(
        model.silu(x), [-10 / (1 + math.e**10), -1 / (1 + math.e), 0, 1 / (1 + 1 / math.e), 10], rtol=1e-4
    )
    dense = np.linspace(-6, 6, 1001)
    assert np.abs(model.gelu(dense) - model.gelu_tanh(dense)).max() == pytest.approx(4.7e-4, rel=0.02)


def test_marks_are_counted_logit_by_logit() -> None:
    """By a plain loop; a tie, and a logit that is not a number, count against the target."""
    logits = np.array([[2.0, 1.0, 2.0, -1.0], [0.0, 3.0, 1.0, 1.0], [0.0, np.nan, 1.0, 1.0]])
    nats, rank, confidence = model.token_marks(logits, np.array([0, 3, 2]))
    assert rank.tolist() == [1, 2, 2]
    total = 2 * math.exp(2) + math.exp(1) + math.exp(-1)
    assert confidence[0] == pytest.approx(math.exp(2) / total)
    assert nats[0] == pytest.approx(math.log(total) - 2)


def test_attention_totals_of_a_uniform_and_of_a_certain_query() -> None:
    weights = np.zeros((2, 1, 3, 3))
    weights[:, 0] = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]
    totals = model.attention_totals(weights)
    np.testing.assert_allclose(totals.entropy, [2 * np.log(2)], rtol=1e-12)
    np.testing.assert_allclose(totals.distance, [[3, 3, 0]], rtol=1e-12)
    np.testing.assert_allclose(totals.first, [1], rtol=1e-12)
