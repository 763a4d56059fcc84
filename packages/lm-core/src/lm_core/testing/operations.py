"""Conformance of the operations without attention and losses, as a pytest class; dropout and clipping included."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from lm_core.reference import model as reference
from lm_core.reference.dropout import keep_mask
from lm_core.testing.tensors import Array, TensorConformance, both, draw

VIEWS: dict[str, Callable[[int], list[tuple[Array, Callable[..., Array]]]]] = {
    "transposed": lambda n: [(draw(n, n - 1), lambda x: x.T), (draw(n, n + 1), lambda w: w.T)],
    "strided": lambda n: [
        (draw(3, n, 2 * n), lambda x: x[..., ::2].swapaxes(0, 1)),
        (draw(n, 2 * n), lambda w: w[:, ::2]),
    ],
    "strided and transposed": lambda n: [
        (draw(3, n, 2 * n), lambda x: x[..., ::2].swapaxes(0, 1)),
        (draw(2 * n, n), lambda w: w.T[:, ::2]),
    ],
}


class OperationConformance(TensorConformance):
    """Each operation alone, values and gradients: against the framework's own and float64 numpy."""

    @both
    @pytest.mark.parametrize(
        "shapes",
        [
            ((2, 3, 5), (4, 5)),
            ((5,), (4, 5)),
            ((4, 64, 64), (64, 64)),
            ((2, 1, 64, 64), (64, 64)),
            ((1024,), (1024, 1024)),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("bias", [True, False])
    def test_linear(self, kernels: ModuleType, shapes: tuple[tuple[int, ...], tuple[int, int]], bias: bool) -> None:
        """Vectors, and more axes, small and so large that a backend may take another product."""
        arrays = [draw(*shapes[0]), draw(*shapes[1]), draw(shapes[1][0])][: 3 if bias else 2]
        self.check(kernels.linear, self.own.linear, lambda x, w, b=0.0: x @ w.T + b, arrays, 1e-5)

    @both
    @pytest.mark.parametrize("size", [5, 96])
    @pytest.mark.parametrize("name", VIEWS)
    def test_linear_takes_views(self, kernels: ModuleType, name: str, size: int) -> None:
        """Arguments that are not contiguous."""
        (x, of_x), (w, of_w) = VIEWS[name](size)
        self.check(
            lambda x, w: kernels.linear(of_x(x), of_w(w)),
            lambda x, w: self.own.linear(self.own.contiguous(of_x(x)), self.own.contiguous(of_w(w))),
            lambda x, w: of_x(x) @ of_w(w).T,
            [x, w],
            1e-5,
        )

    @both
    @pytest.mark.parametrize("size", [5, 128])
    def test_linear_takes_an_upstream_gradient_that_is_one_number_expanded(
        self, kernels: ModuleType, size: int
    ) -> None:
        """The gradient of a sum."""
        x, w, b = draw(2, size, size), draw(size, size), draw(size)
        _, gradients = self.values_and_gradients(
            lambda *given: kernels.linear(*given).sum(), [x, w, b], np.ones((), np.float32)
        )
        expected = (w.sum(axis=0), x.sum(axis=(0, 1)), np.full(size, 2.0 * size))
        for gradient, one, atol in zip(gradients, expected, (1e-5, 1e-4, 1e-5), strict=True):
            np.testing.assert_allclose(gradient, np.broadcast_to(one, gradient.shape), rtol=1e-5, atol=atol)

    @both
    def test_the_gradients_of_a_repeated_id_add_up(self, kernels: ModuleType) -> None:
        """In an embedding."""
        ids = np.array([[1, 1, 3], [0, 1, 3]])
        at = self.tensor(ids)
        self.check(
            lambda w: kernels.embedding(at, w), lambda w: self.own.embedding(at, w), lambda w: w[ids], [draw(5, 4)]
        )
        _, (gradient,) = self.values_and_gradients(
            lambda w: kernels.embedding(at, w), [np.zeros((5, 4), np.float32)], np.ones((2, 3, 4), np.float32)
        )
        assert gradient[:, 0].tolist() == [1, 3, 0, 2, 0]

    @both
    @pytest.mark.parametrize("name", ["softmax", "silu", "gelu", "gelu_tanh"])
    @pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 1, 3, 7)], ids=str)
    def test_softmax_and_the_nonlinearities(self, kernels: ModuleType, name: str, shape: tuple[int, ...]) -> None:
        """On any number of axes."""
        ours, theirs, oracle = (getattr(where, name) for where in (kernels, self.own, reference))
        self.check(ours, theirs, oracle, [draw(*shape, scale=3)])

    @both
    @pytest.mark.parametrize("tanh", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_gelu_mlp(self, kernels: ModuleType, bias: bool, tanh: bool) -> None:
        """With biases, and without."""
        theirs, oracle = (getattr(where, "gelu_tanh" if tanh else "gelu") for where in (self.own, reference))
        self.check(
            lambda x, u, d, b=None, c=None: kernels.gelu_mlp(x, u, b, d, c, tanh),
            lambda x, u, d, b=0.0, c=0.0: theirs(x @ u.T + b) @ d.T + c,
            lambda x, u, d, b=0.0, c=0.0: oracle(x @ u.T + b) @ d.T + c,
            [draw(2, 3, 5), draw(4, 5), draw(6, 4), draw(4), draw(6)][: 5 if bias else 3],
        )

    @both
    @pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
    def test_the_nonlinearities_are_0_and_the_identity_far_out(self, kernels: ModuleType, name: str) -> None:
        """And their slopes 0 and 1."""
        x = np.array([-1e4, -100, 0, 100, 1e4], dtype=np.float32)
        y, (gradient,) = self.values_and_gradients(getattr(kernels, name), [x], np.ones(5, dtype=np.float32))
        np.testing.assert_allclose(y, [0, 0, 0, 100, 1e4], rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(gradient, [0, 0, 0.5, 1, 1], rtol=1e-6, atol=1e-30)

    @both
    @pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 1, 3, 8)], ids=str)
    @pytest.mark.parametrize("scale", [3.0, 0.0, 1e-4])
    def test_norms(self, kernels: ModuleType, shape: tuple[int, ...], scale: float) -> None:
        """Scale 0 is the vector of zeros, whose slope is 1 / sqrt(eps)."""
        x, weight, bias = draw(*shape, scale=scale) + np.float32(2 if scale == 3 else 0), draw(8), draw(8, seed=3)
        self.check(
            lambda x, w: kernels.rms_norm(x, w, 1e-5),
            lambda x, w: self.own.rms_norm(x, w, 1e-5),
            reference.rms_norm,
            [x, weight],
            1e-5,
        )
        for parts in ([weight], [weight, bias]):
            self.check(
                lambda x, w, b=None: kernels.layer_norm(x, w, b, 1e-5),
                lambda x, w, b=None: self.own.layer_norm(x, w, b, 1e-5),
                reference.layer_norm,
                [x, *parts],
                1e-5,
            )

    @both
    @pytest.mark.parametrize("size", [1e4, 1e38])
    def test_huge_logits_do_not_overflow(self, kernels: ModuleType, size: float) -> None:
        """In a softmax; for losses see `LossConformance`."""
        x, expected = huge_logits(size)
        first = np.zeros((3, 3), dtype=np.float32)
        first[:, 0] = 1
        p, (gradient,) = self.values_and_gradients(kernels.softmax, [x], first)
        np.testing.assert_allclose(p, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, expected * (first[:1] - expected[:, :1]), atol=1e-7)

    @both
    def test_activations_keep_bfloat16_and_what_decides_a_scale_is_float32(self, kernels: ModuleType) -> None:
        """By the values of the same operation in float32."""
        x, w, b = (self.narrow(self.tensor(draw(*shape))) for shape in ((2, 16, 32), (32, 32), (32,)))
        heads = x.reshape(2, 16, 4, 8).swapaxes(1, 2)
        calls = {
            "linear": (x, w, b),
            "silu": (x,),
            "gelu": (x,),
            "gelu_tanh": (x,),
            "rms_norm": (x, b, 1e-5),
            "layer_norm": (x, b, b, 1e-5),
            "scaled_dot_product_attention": (heads, heads, heads),
            "softmax": (x,),
            "cross_entropy": (x, self.tensor(np.zeros((2, 16), dtype=np.int64))),
        }
        for name, arguments in calls.items():
            y, wide = (
                getattr(kernels, name)(*given)
                for given in (arguments, (a if isinstance(a, float) else self.widened(a) for a in arguments))
            )
            assert self.dtype(y) == ("float32" if name in ("softmax", "cross_entropy") else "bfloat16"), name
            np.testing.assert_allclose(self.array(y), self.array(wide), rtol=0.02, atol=0.02, err_msg=name)

    @pytest.mark.parametrize("rate", [0.1, 0.9])
    @pytest.mark.parametrize("key", [0, 12345, 2**32 - 1])
    def test_dropout_drops_what_the_reference_does_and_scales_up_the_rest(self, rate: float, key: int) -> None:
        """And another site drops others."""
        dropout, x, step_key = self.module("dropout").dropout, draw(7, 5, 300), self.tensor(np.array(key, np.uint32))
        y, (gradient,) = self.values_and_gradients(lambda x: dropout(x, rate, step_key, 3), [x], np.ones_like(x))
        kept = keep_mask(x.shape, key, 3, rate)
        np.testing.assert_allclose(y, x * kept / (1 - rate), rtol=2e-6)
        np.testing.assert_allclose(gradient, kept / (1 - rate), rtol=2e-6)
        assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
        assert not np.array_equal(y, self.array(dropout(self.tensor(x), rate, step_key, 4)))
        assert self.dtype(dropout(self.narrow(self.tensor(x)), rate, step_key, 3)) == "bfloat16"

    def test_without_a_key_or_a_rate_nothing_is_dropped(self) -> None:
        """The tensor itself comes back."""
        dropout, x = self.module("dropout").dropout, self.tensor(draw(7))
        assert dropout(x, 0.5, None, 0) is x
        assert dropout(x, 0.0, self.tensor(np.array(1, np.uint32)), 0) is x

    @pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e4, 0.0])
    @pytest.mark.parametrize("scale", [1.0, 1e-3, 0.0])
    def test_clipping_is_the_framework_s_own_and_0_does_not_clip(self, max_norm: float, scale: float) -> None:
        """By the joint norm of float64 numpy."""
        gradients = [draw(*shape, scale=scale) for shape in ((3, 4), (7,), (1, 1, 2))]
        ours, norm, norms = self.clip([self.tensor(g) for g in gradients], max_norm)
        theirs, norm_theirs = self.own.clip([self.tensor(g) for g in gradients], max_norm or 1e30)
        assert norms.tolist() == pytest.approx([float(np.linalg.norm(g)) for g in gradients])
        assert norm.item() == pytest.approx(norm_theirs.item(), rel=1e-6)
        assert norm.item() == pytest.approx(math.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients)), rel=1e-6)
        for one, other, gradient in zip(ours, theirs, gradients, strict=True):
            np.testing.assert_allclose(self.array(one), self.array(other), rtol=2e-6)
            assert max_norm or np.array_equal(self.array(one), gradient)


def huge_logits(size: float) -> tuple[Array, Array]:
    """Three rows of logits, and their softmax."""
    logits = np.array([[size, -size, 0.0], [-size, -size, -size], [size, size, -size]], dtype=np.float32)
    return logits, np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
