"""The optimizers' oracle against closed forms and plain loops, and the names and shapes of their state."""

import math
from typing import Any

import numpy as np
import pytest

from lm_core.config import AdamWConfig, DecayGroup, KBetaConfig, ModelConfig, MuonConfig
from lm_core.model.parameters import parameter_table
from lm_core.optim import bucket_of, decayed, members, muon_scale, orthogonalized, state_shapes
from lm_core.reference.optim import AdamW, KBeta, Muon, newton_schulz, reference_optimizer

TABLE = parameter_table(ModelConfig(vocab_size=5, seq_len=4, d_model=8, n_layers=1, n_heads=2, head_bias=True))
LR = 0.01


def random_arrays(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: scale * draw.standard_normal(p.shape) for name, p in TABLE.items()}


def same_gradient(optimizer: AdamW | KBeta | Muon, grads: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """How far each parameter moves in the last of `steps` steps with one gradient."""
    params = random_arrays(0)
    for _ in range(steps):
        before = dict(params)
        params = optimizer.update(params, grads, LR)
    return {name: before[name] - params[name] for name in params}


def trajectory(optimizer: AdamW | KBeta | Muon, steps: int = 12) -> list[dict[str, np.ndarray]]:
    params, points = random_arrays(0), []
    for step in range(steps):
        params = optimizer.update(params, random_arrays(step + 1, scale=math.exp(step % 3)), LR)
        points.append(params)
    return points


def assert_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    for a, b in zip(one, other, strict=True):
        for name in TABLE:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_is_the_textbook_loop_over_single_numbers(bias_correction: bool) -> None:
    config = AdamWConfig(beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1, bias_correction=bias_correction)
    name, place = "blocks.0.attn.q_proj.weight", (3, 5)
    p, m, v = float(random_arrays(0)[name][place]), 0.0, 0.0
    for t, point in enumerate(trajectory(AdamW(config, TABLE)), start=1):
        g = float(random_arrays(t, scale=math.exp((t - 1) % 3))[name][place])
        p -= LR * 0.1 * p
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g * g
        m_hat, v_hat = (m / (1 - 0.8**t), v / (1 - 0.95**t)) if bias_correction else (m, v)
        p -= LR * m_hat / (math.sqrt(v_hat) + 1e-3)
        assert point[name][place] == pytest.approx(p, rel=1e-12)


def test_adamw_moves_by_lr_times_the_sign_under_a_steady_gradient() -> None:
    grads = random_arrays(1)
    for steps in (1, 7):
        for name, moved in same_gradient(AdamW(AdamWConfig(eps=1e-300), TABLE), grads, steps).items():
            np.testing.assert_allclose(moved, LR * np.sign(grads[name]), rtol=1e-9)


@pytest.mark.parametrize("correction", ["none", "beta2max", "exact"])
@pytest.mark.parametrize("buckets", ["global", "shape", "per-array"])
def test_kbeta_whose_beta2_cannot_move_is_adam(correction: str, buckets: str) -> None:
    shared: dict[str, Any] = {"beta1": 0.8, "eps": 1e-4, "weight_decay": 0.1}
    kbeta = KBetaConfig.parse(
        {**shared, "beta2_min": 0.95, "beta2_max": 0.95, "bias_correction": correction, "buckets": buckets}
    )
    adam = AdamWConfig(**shared, beta2=0.95, bias_correction=correction != "none")
    assert_same(trajectory(KBeta(kbeta, TABLE)), trajectory(AdamW(adam, TABLE)))


def test_a_steady_norm_settles_in_the_middle_of_the_beta2_range() -> None:
    optimizer = KBeta(KBetaConfig(beta2_min=0.88, beta2_max=0.999, alpha=0.93), TABLE)
    same_gradient(optimizer, random_arrays(1), 400)
    assert optimizer.sunspike["all"] == pytest.approx(0.5, abs=1e-7)
    assert optimizer.beta2["all"] == pytest.approx(0.9395, abs=1e-7)


def test_a_spike_lowers_beta2_and_a_lull_raises_it() -> None:
    optimizer = KBeta(KBetaConfig(beta2_min=0.88, beta2_max=0.999), TABLE)
    same_gradient(optimizer, random_arrays(1), 200)
    optimizer.update(random_arrays(0), random_arrays(1, scale=100), LR)
    ratio = 100 / (0.9 + 0.1 * 100)
    assert optimizer.sunspike["all"] == pytest.approx(ratio / (1 + ratio), rel=1e-3)
    assert 0.88 < optimizer.beta2["all"] < 0.9
    optimizer.update(random_arrays(0), random_arrays(1, scale=1e-6), LR)
    assert optimizer.beta2["all"] == pytest.approx(0.999, abs=1e-5)


def test_the_warmup_holds_beta2_in_the_middle_while_the_norm_average_already_runs() -> None:
    optimizer = KBeta(KBetaConfig(beta2_min=0.88, beta2_max=0.999, alpha=0.5, warmup_steps=3), TABLE)
    norm = math.sqrt(sum(float((g**2).sum()) for g in random_arrays(1).values()))
    for step in (1, 2, 3, 4):
        optimizer.update(random_arrays(0), random_arrays(1), LR)
        assert (optimizer.beta2["all"] == (0.88 + 0.999) / 2) == (step <= 3)
        assert (optimizer.sunspike["all"] == 0) == (step <= 3)
        assert optimizer.grad_ema["all"] == pytest.approx(norm * (1 - 0.5**step))


def test_the_exact_correction_undoes_whatever_beta2_was_used() -> None:
    """m / c1 = g and v / c2 = g^2 under a steady gradient, though beta2 is another at each step."""
    config = KBetaConfig(beta2_min=0.5, beta2_max=0.999, eps=1e-300, bias_correction="exact")
    grads = random_arrays(1)
    for name, moved in same_gradient(KBeta(config, TABLE), grads, 6).items():
        np.testing.assert_allclose(moved, LR * np.sign(grads[name]), rtol=1e-9)


def test_max_ratio_bounds_every_element_of_the_step() -> None:
    config = KBetaConfig(max_ratio=0.3)
    moved = same_gradient(KBeta(config, TABLE), random_arrays(1), 1)
    assert max(np.abs(m).max() for m in moved.values()) == pytest.approx(0.3 * LR)


@pytest.mark.parametrize(("decay", "left"), [(None, 1.0), (1.0, 1.0), (0.5, 0.25)])
def test_the_running_maximum_of_v_leaks_by_its_decay(decay: float | None, left: float) -> None:
    optimizer = KBeta(KBetaConfig(decay=decay, max_ratio=1e9, beta2_min=0.0, beta2_max=0.0), TABLE)
    zeros = {name: np.zeros(p.shape) for name, p in TABLE.items()}
    grads = random_arrays(1)
    for gradient in (grads, zeros, zeros):
        optimizer.update(random_arrays(0), gradient, LR)
    for name, v_max in optimizer.v_max.items():
        np.testing.assert_allclose(v_max, left * grads[name] ** 2)


def test_adaptive_tiny_scales_with_the_parameter_but_not_below_one() -> None:
    config = KBetaConfig(adaptive_tiny=True, tiny_denom=0.25, eps=1e-300, bias_correction="exact")
    grads = {name: np.ones(p.shape) for name, p in TABLE.items()}
    for value, scale in ((8.0, 8.0), (-8.0, 8.0), (0.1, 1.0)):
        params = {name: np.full(p.shape, value) for name, p in TABLE.items()}
        after = KBeta(config, TABLE).update(params, grads, LR)
        np.testing.assert_allclose(value - after["embed.weight"], LR / (1 + 0.25 * scale))


def test_a_bucket_without_gradient_does_not_move_and_stays_finite() -> None:
    optimizer = KBeta(KBetaConfig(buckets="per-array", bias_correction="exact"), TABLE)
    grads = random_arrays(1) | {"pos_embed.weight": np.zeros((4, 8))}
    moved = same_gradient(optimizer, grads, 5)
    np.testing.assert_array_equal(moved["pos_embed.weight"], 0)
    assert optimizer.beta2["pos_embed.weight"] == 0.999
    assert all(np.isfinite(m).all() for m in moved.values())


def test_buckets_have_their_own_norms() -> None:
    optimizer = KBeta(KBetaConfig(buckets="per-array", alpha=0.0), TABLE)
    grads = random_arrays(1)
    optimizer.update(random_arrays(0), grads, LR)
    for name, gradient in grads.items():
        assert optimizer.grad_ema[name] == pytest.approx(np.linalg.norm(gradient))


def test_buckets_are_one_or_one_a_shape_or_one_an_array() -> None:
    sizes = {b: len(members(bucket_of(KBetaConfig.parse({"buckets": b}), TABLE))) for b in ("global", "per-array")}
    assert sizes == {"global": 1, "per-array": len(TABLE)}
    by_shape = members(bucket_of(KBetaConfig(buckets="shape"), TABLE))
    assert len(by_shape) == len({p.shape for p in TABLE.values()})
    assert by_shape["8x8"] == [f"blocks.0.attn.{x}_proj.weight" for x in "qkvo"]


# Muon

QKVO = [f"blocks.0.attn.{x}_proj.weight" for x in "qkvo"]
MATRICES = [*QKVO, "blocks.0.mlp.up_proj.weight", "blocks.0.mlp.down_proj.weight"]


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (1, 5), (64, 64)], ids=str)
def test_newton_schulz_brings_the_singular_values_of_random_matrices_near_1(shape: tuple[int, int]) -> None:
    for seed in range(5):
        matrix = np.random.default_rng(seed).standard_normal(shape)
        u, before, vt = np.linalg.svd(matrix, full_matrices=False)
        # The iteration is a polynomial in the matrix: it keeps the directions, so these are the singular values.
        after = u.T @ newton_schulz(matrix, 5) @ vt.T
        np.testing.assert_allclose(after, np.diag(np.diag(after)), atol=1e-10)
        # What was far below the norm has not arrived yet.
        values = np.diag(after)[before > 0.02 * np.linalg.norm(before)]
        assert len(values) > 0.8 * len(before)
        assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_newton_schulz_knows_no_scale_and_no_orientation(scale: float) -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 24))
    expected = newton_schulz(matrix, 5)
    np.testing.assert_allclose(newton_schulz(scale * matrix, 5), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(newton_schulz(matrix.T, 5), expected.T, rtol=1e-12)
    np.testing.assert_allclose(newton_schulz(-matrix, 5), -expected, rtol=1e-12)


def test_newton_schulz_scales_an_orthogonal_matrix_and_leaves_zeros() -> None:
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    x = 1 / math.sqrt(8)  # all its singular values after the division by the norm
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    np.testing.assert_allclose(newton_schulz(q, 5), x * q, atol=1e-6)
    assert not newton_schulz(np.zeros((3, 4)), 5).any()


@pytest.mark.parametrize(
    ("shape", "original", "match_rms_adamw"),
    [((8, 8), 1.0, 0.2 * math.sqrt(8)), ((8, 32), 1.0, 0.2 * math.sqrt(32)), ((32, 8), 2.0, 0.2 * math.sqrt(32))],
    ids=["square", "wide", "tall"],
)
def test_the_scale_of_a_step_follows_from_the_shape(
    shape: tuple[int, int], original: float, match_rms_adamw: float
) -> None:
    assert muon_scale(MuonConfig(scale="original"), shape) == original
    assert muon_scale(MuonConfig(scale="match_rms_adamw"), shape) == match_rms_adamw


def test_a_step_matched_to_adamw_has_its_size_whatever_the_shape() -> None:
    """The root mean square of a semi-orthogonal matrix is 1 / sqrt(max(rows, columns)), of AdamW's step about 0.2."""
    moved = same_gradient(Muon(MuonConfig(), TABLE), random_arrays(1), 1)
    for name in MATRICES:
        assert np.sqrt((moved[name] ** 2).mean()) == pytest.approx(0.2 * LR, rel=0.3), name


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    assert sorted(orthogonalized(TABLE)) == sorted(MATRICES)
    shared: dict[str, Any] = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-4, "weight_decay": 0.1}
    muon, adamw = trajectory(Muon(MuonConfig(**shared), TABLE)), trajectory(AdamW(AdamWConfig(**shared), TABLE))
    for ours, theirs in zip(muon, adamw, strict=True):
        assert list(ours) == list(TABLE)
        assert {name for name in TABLE if not np.array_equal(ours[name], theirs[name])} == set(MATRICES)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_its_equations_for_one_matrix(nesterov: bool) -> None:
    config = MuonConfig(momentum=0.8, nesterov=nesterov, lr_factor=3.0, weight_decay=0.1, scale="original", ns_steps=4)
    name = "blocks.0.mlp.up_proj.weight"
    p, m = random_arrays(0)[name], np.zeros((32, 8))
    for t, point in enumerate(trajectory(Muon(config, TABLE)), start=1):
        g = random_arrays(t, scale=math.exp((t - 1) % 3))[name]
        m = 0.8 * m + 0.2 * g
        u = 0.2 * g + 0.8 * m if nesterov else m
        x = u.T / (np.linalg.norm(u) + 1e-7)
        for _ in range(4):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        p = p * (1 - 3 * LR * 0.1) - 3 * LR * 2 * x.T
        np.testing.assert_allclose(point[name], p, rtol=1e-10, atol=1e-12)


def test_the_matrices_decay_at_their_own_rate() -> None:
    zeros = {name: np.zeros(p.shape) for name, p in TABLE.items()}
    config = MuonConfig(weight_decay=0.5, decay_groups=("matrix", "embed"), lr_factor=3.0)
    before = random_arrays(0)
    after = Muon(config, TABLE).update(before, zeros, LR)
    for name, parameter in TABLE.items():
        rate = 3 * LR if name in MATRICES else LR if parameter.group in ("matrix", "embed") else 0.0
        np.testing.assert_allclose(after[name], (1 - 0.5 * rate) * before[name], rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("groups", [(), ("matrix",), ("bias", "norm"), ("matrix", "embed", "bias", "norm")])
@pytest.mark.parametrize("cls", [AdamWConfig, KBetaConfig, MuonConfig])
def test_weight_decay_shrinks_its_groups_and_nothing_else(
    cls: type[AdamWConfig | KBetaConfig | MuonConfig], groups: tuple[DecayGroup, ...]
) -> None:
    zeros = {name: np.zeros(p.shape) for name, p in TABLE.items()}
    optimizer = reference_optimizer(cls(weight_decay=0.5, decay_groups=groups), TABLE)
    before = random_arrays(0)
    after = optimizer.update(before, zeros, LR)
    for name, parameter in TABLE.items():
        factor = 1 - 0.5 * LR if parameter.group in groups else 1.0
        np.testing.assert_allclose(after[name], factor * before[name], rtol=1e-14)
    assert set(decayed(groups, TABLE)) == {name for name, p in TABLE.items() if p.group in groups}


def test_an_update_leaves_the_arrays_it_was_given_alone() -> None:
    params, grads = random_arrays(0), random_arrays(1)
    for config in (AdamWConfig(weight_decay=0.1), KBetaConfig(weight_decay=0.1), MuonConfig(weight_decay=0.1)):
        reference_optimizer(config, TABLE).update(params, grads, LR)
    assert all(
        np.array_equal(params[n], random_arrays(0)[n]) and np.array_equal(grads[n], random_arrays(1)[n]) for n in TABLE
    )


@pytest.mark.parametrize(
    ("config", "kinds", "buckets"),
    [
        (AdamWConfig(), ["m", "v"], []),
        (KBetaConfig(), ["m", "v"], ["all"]),
        (KBetaConfig(decay=0.9), ["m", "v", "v_max"], ["all"]),
        (KBetaConfig(max_ratio=3.0, buckets="per-array"), ["m", "v", "v_max"], list(TABLE)),
    ],
)
def test_the_state_of_a_checkpoint_has_these_names_and_shapes(
    config: AdamWConfig | KBetaConfig, kinds: list[str], buckets: list[str]
) -> None:
    expected: dict[str, tuple[int, ...]] = {"step": ()}
    expected |= {f"{kind}.{name}": p.shape for kind in kinds for name, p in TABLE.items()}
    expected |= {f"{kind}.{bucket}": () for kind in ("grad_ema", "beta2_product") for bucket in buckets}
    assert state_shapes(config, TABLE) == expected


def test_muon_keeps_no_second_moment_of_what_it_orthogonalizes() -> None:
    expected: dict[str, tuple[int, ...]] = {"step": ()} | {f"m.{name}": p.shape for name, p in TABLE.items()}
    expected |= {f"v.{name}": p.shape for name, p in TABLE.items() if name not in MATRICES}
    assert state_shapes(MuonConfig(), TABLE) == expected
