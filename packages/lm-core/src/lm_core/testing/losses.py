"""Conformance of the losses, as a pytest class."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lm_core.reference import model as reference
from lm_core.testing.operations import huge_logits
from lm_core.testing.tensors import Array, TensorConformance, both, draw

V, D = 11, 6
TARGETS = np.random.default_rng(0).integers(0, V, (3, 5))


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Mean nats of a target."""
    return np.asarray(reference.token_losses(logits, targets).mean())


class LossConformance(TensorConformance):
    """Values and gradients against the framework's own and float64 numpy."""

    @both
    @pytest.mark.parametrize("shape", [(), (5,), (3, 5)], ids=str)
    def test_cross_entropy(self, kernels: ModuleType, shape: tuple[int, ...]) -> None:
        """Of one row of logits, or of more axes."""
        targets = np.asarray(TARGETS[(0,) * (2 - len(shape))])
        at = self.tensor(targets)
        self.check(
            lambda x: kernels.cross_entropy(x, at),
            lambda x: self.own.cross_entropy(x, at),
            lambda x: cross_entropy(x, targets),
            [draw(*shape, V, scale=3)],
        )

    @both
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("rows", [1, 4, 15, 1000], ids=lambda rows: f"{rows} rows at a time")
    def test_linear_cross_entropy(
        self, kernels: ModuleType, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The upstream gradient of `check` is another number than 1."""
        self.set_rows_at_a_time(rows, monkeypatch)
        at = self.tensor(TARGETS)
        self.check(
            lambda x, w, b=None: kernels.linear_cross_entropy(x, w, b, at),
            lambda x, w, b=0.0: self.own.cross_entropy(x @ w.T + b, at),
            lambda x, w, b=0.0: cross_entropy(x @ w.T + b, TARGETS),
            [draw(3, 5, D), draw(V, D), draw(V, seed=3)][: 3 if bias else 2],
        )

    @both
    @pytest.mark.parametrize("rows", [1, 4, 1000], ids=lambda rows: f"{rows} rows at a time")
    def test_linear_token_marks(self, kernels: ModuleType, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """With two ids of one logit, of which each is a target, and a logit that is not a number."""
        self.set_rows_at_a_time(rows, monkeypatch)
        x, w, b = draw(3, 5, D), draw(V, D), draw(V, seed=3)
        w[1], b[1] = w[0], b[0]
        x[0, 0] = np.nan
        arguments = (self.tensor(array) for array in (x, w, b, TARGETS))
        token_marks, held = kernels.token_marks, [0]

        def watched(logits: Any, targets: Any) -> Any:
            held.append(logits.shape[0])
            return token_marks(logits, targets)

        monkeypatch.setattr(kernels, "token_marks", watched)
        marks = np.asarray(kernels.linear_token_marks(*arguments))
        if kernels is self.module("fused"):
            assert max(held) <= rows
        np.testing.assert_allclose(marks, reference.token_marks(x @ w.T + b, TARGETS), atol=1e-5)
        assert marks[1, 0, 0] == V - 1

    def set_rows_at_a_time(self, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the fused loss hold the logits of so many rows."""
        monkeypatch.setattr(self.module("fused"), "LOGITS_BYTES", rows * 4 * V)

    @pytest.mark.parametrize(
        ("kernels", "chunks"), [("scratch", 1), ("fused", 1), ("fused", 256)], indirect=["kernels"]
    )
    def test_a_loss_in_bfloat16_is_the_float32_one_s(
        self, kernels: ModuleType, chunks: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many chunks add up: one more is not lost in the sum of those before."""
        rows = 256
        self.set_rows_at_a_time(rows // chunks, monkeypatch)
        targets = self.tensor(np.random.default_rng(1).integers(0, V, rows))
        narrow = [self.narrow(self.tensor(a)) for a in (draw(rows, D), draw(V, D), draw(V, seed=3))]
        (loss, gradients), (expected, wide) = (
            self.differentiate(
                lambda *given: kernels.linear_cross_entropy(*given, targets),
                tensors,
                self.tensor(np.ones((), np.float32)),
            )
            for tensors in (narrow, [self.widened(a) for a in narrow])
        )
        assert self.dtype(loss) == "float32"
        assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
        for one, other in zip(gradients, wide, strict=True):
            assert self.dtype(one) == "bfloat16"
            assert np.linalg.norm(self.array(one) - self.array(other)) < 0.015 * np.linalg.norm(self.array(other))

    @both
    @pytest.mark.parametrize("size", [1e4, 1e38])
    def test_huge_logits_have_a_finite_loss_and_gradient(self, kernels: ModuleType, size: float) -> None:
        """A certain target, and one that was ruled out."""
        x, p = huge_logits(size)
        for target, loss in ((0, (math.log(3) + math.log(2)) / 3), (1, (2 * size + math.log(3) + math.log(2)) / 3)):
            at = self.tensor(np.full(3, target))
            ours, (gradient,) = self.values_and_gradients(
                lambda x, at=at: kernels.cross_entropy(x, at), [x], np.ones((), np.float32)
            )
            assert float(ours) == pytest.approx(loss, abs=1e-7 * size)
            np.testing.assert_allclose(gradient, (p - np.eye(3)[target]) / 3, atol=1e-7)

    @both
    def test_a_head_with_huge_logits_has_a_finite_loss_and_gradient(self, kernels: ModuleType) -> None:
        """Through the product with the head's weights."""
        x, w, at = np.full((4, D), 1e4, np.float32), np.zeros((V, D), np.float32), self.tensor(np.array([1, 1, 2, 2]))
        w[1], w[2] = 1e4, -1e4
        loss, (of_x, of_w) = self.values_and_gradients(
            lambda x, w: kernels.linear_cross_entropy(x, w, None, at), [x, w], np.ones((), np.float32)
        )
        assert float(loss) == pytest.approx(D * 1e8, rel=1e-6)
        np.testing.assert_allclose(of_x, np.broadcast_to([[0.0], [0], [5e3], [5e3]], (4, D)), rtol=2e-6, atol=1e-5)
        np.testing.assert_allclose(of_w[1:3], np.broadcast_to([[5e3], [-5e3]], (2, D)), rtol=2e-6)
        assert not of_w[3:].any()
