"""Conformance of attention and rotary positions, as a pytest class."""

from types import ModuleType

import numpy as np
import pytest

from lm_core.reference import model as reference
from lm_core.testing.tensors import TensorConformance, both, draw

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
"""Axes before [T, H] of queries, and of keys and values."""


class AttentionConformance(TensorConformance):
    """Values and gradients against the framework's own and float64 numpy."""

    @both
    @pytest.mark.parametrize("heads", HEADS)
    @pytest.mark.parametrize("seen", ["all", "causal", "mask", "mask and causal"])
    def test_attention(self, kernels: ModuleType, heads: str, seen: str) -> None:
        """Any number of axes and of kv heads."""
        q_lead, k_lead = HEADS[heads]
        keys, causal = (T, True) if "causal" in seen else (S, False)
        mask = MASK[:, :keys] if "mask" in seen else None
        by_either = (np.ones((T, keys), dtype=bool) if mask is None else mask) & (
            np.tri(T, dtype=bool) if causal else True
        )
        given, wanted = (None if a is None else self.tensor(a) for a in (mask, by_either))
        self.check(
            lambda q, k, v: kernels.scaled_dot_product_attention(q, k, v, given, causal),
            lambda q, k, v: self.own.scaled_dot_product_attention(q, k, v, wanted),
            lambda q, k, v: reference.scaled_dot_product_attention(q, k, v, by_either),
            [draw(*q_lead, T, H, scale=2), draw(*k_lead, keys, H, seed=3), draw(*k_lead, keys, H, seed=4)],
            1e-5,
        )

    @both
    def test_a_mask_may_differ_from_row_to_row(self, kernels: ModuleType) -> None:
        """As where rows of unequal length are decoded together."""
        q, k, v = draw(2, 4, 1, H), draw(2, 2, S, H, seed=3), draw(2, 2, S, H, seed=4)
        mask = (np.arange(S) <= np.array([2, 5])[:, None])[:, None, None]
        ours = kernels.scaled_dot_product_attention(*map(self.tensor, (q, k, v, mask)))
        expected = reference.scaled_dot_product_attention(q.astype(np.float64), k, v, mask)
        np.testing.assert_allclose(self.array(ours), expected, atol=1e-6)

    @both
    def test_attention_weights_are_dropped_before_they_mix(self, kernels: ModuleType) -> None:
        """And after the softmax."""
        attention, arrays = kernels.scaled_dot_product_attention, [draw(2, T, H, seed=i) for i in range(3)]
        tensors, third = [self.tensor(a) for a in arrays], self.tensor((np.arange(T) == 2).astype(np.float32))
        whole = attention(*tensors, is_causal=True)
        halved = attention(*tensors, is_causal=True, drop=lambda weights: weights / 2)
        np.testing.assert_allclose(self.array(halved), self.array(whole) / 2, rtol=1e-6, atol=1e-7)
        q, k, v = (a.astype(np.float64) for a in arrays)
        kept = reference.softmax(q @ k.swapaxes(-1, -2) / 2)[..., 2:3] * v[:, 2:3]
        gone = attention(*tensors, drop=lambda weights: weights * third)
        np.testing.assert_allclose(self.array(gone), kept, rtol=1e-5, atol=1e-6)

    @both
    @pytest.mark.parametrize("size", [1e2, 1e19])
    @pytest.mark.parametrize("causal", [True, False])
    def test_attention_with_huge_scores_takes_the_best_key(
        self, kernels: ModuleType, size: float, causal: bool
    ) -> None:
        """Values and gradients are finite."""
        q, k, v = np.zeros((1, 2, 3, H), np.float32), np.zeros((1, 2, 3, H), np.float32), draw(1, 2, 3, H)
        q[..., 0], k[..., 0] = size, [size, -size, -size]
        y, gradients = self.values_and_gradients(
            lambda *given: kernels.scaled_dot_product_attention(*given, is_causal=causal), [q, k, v], np.ones_like(v)
        )
        np.testing.assert_allclose(y, np.broadcast_to(v[..., :1, :], v.shape), rtol=1e-6)
        assert not gradients[0].any()
        assert not gradients[1].any()
        np.testing.assert_allclose(gradients[2], np.broadcast_to([[3.0], [0], [0]], v.shape), rtol=1e-6)

    @pytest.mark.parametrize("shape", [(T, H), (3, T, H), (2, 1, 3, T, H)], ids=str)
    def test_rotate_is_the_framework_s_own_and_the_reference(self, shape: tuple[int, ...]) -> None:
        """Rotary positions from 0 on."""
        rotate = self.module("attention").rotate
        self.check(
            lambda x: rotate(x, 0, 100.0),
            lambda x: self.own.rotate(x, 100.0),
            lambda x: reference.rotate(x, 100.0),
            [draw(*shape)],
        )

    def test_an_offset_moves_positions_for_all_rows_or_for_each(self) -> None:
        """One number, or one for each row."""
        rotate, x, offsets = self.module("attention").rotate, draw(3, 2, 20, H), np.array([4, 0, 19])
        whole = reference.rotate(x.astype(np.float64), 100.0)
        single, of_each = (np.stack([a[row, :, t : t + 1] for row, t in enumerate(offsets)]) for a in (x, whole))
        for part, offset, expected in (
            (x[:, :, 7:], 7, whole[:, :, 7:]),
            (single, self.tensor(offsets), of_each),
        ):
            turned = self.array(rotate(self.tensor(part), offset, 100.0))
            np.testing.assert_allclose(turned, expected, rtol=1e-5, atol=1e-6)

    def test_rotated_scores_depend_on_the_distance_alone(self) -> None:
        """And on nothing else of the positions."""
        rotate, (q, k) = self.module("attention").rotate, (self.tensor(draw(1, 8, seed=i)) for i in range(2))
        for distance in (0, 3, 40):
            scores = [(rotate(q, at + distance, 1e4) @ rotate(k, at, 1e4).T).item() for at in (0, 1, 17, 300)]
            np.testing.assert_allclose(scores, scores[0], atol=1e-3)
        assert (rotate(q, 3, 1e4) @ k.T).item() != pytest.approx((rotate(q, 0, 1e4) @ k.T).item(), abs=1e-2)
