"""How a conformance class calls the operations of a backend: arrays in, arrays and gradients out."""

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Tensor = Any
"""A tensor of the framework."""

both = pytest.mark.parametrize("kernels", ["scratch", "fused"], indirect=True)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal numbers of a shape, the same each time."""
    return np.asarray(scale * np.random.default_rng([seed, *shape]).standard_normal(shape), dtype=np.float32)


class TensorConformance:
    """Operations of a backend against float64 numpy and the framework's own; a backend's suite defines the rest."""

    backend_name: ClassVar[str]
    own: ClassVar[Any]
    """The framework's own operations, under the names of `scratch`; `cross_entropy` is of [..., V] and [...].

    Besides: `rotate(x, theta)`, `contiguous(x)`, and `clip(gradients, max_norm)` -> gradients and their norm.
    """

    @staticmethod
    def tensor(array: Array) -> Tensor:
        """The array on the CPU; a boolean, integer or floating type stays one."""
        raise NotImplementedError

    @staticmethod
    def array(tensor: Tensor) -> Array:
        """The tensor's values, in float32 where it is bfloat16."""
        raise NotImplementedError

    @staticmethod
    def narrow(tensor: Tensor) -> Tensor:
        """The tensor in bfloat16."""
        raise NotImplementedError

    @staticmethod
    def differentiate(
        f: Callable[..., Tensor], tensors: Sequence[Tensor], upstream: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The value of f, and the gradients of its product with `upstream`."""
        raise NotImplementedError

    @staticmethod
    def clip(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gradients clipped by the backend, their joint norm before, and that of each."""
        raise NotImplementedError

    def module(self, name: str) -> ModuleType:
        """A module of the backend."""
        return import_module(f"lm_{self.backend_name}.{name}")

    @pytest.fixture
    def kernels(self, request: pytest.FixtureRequest) -> ModuleType:
        """`scratch` or `fused`."""
        return self.module(request.param)

    def widened(self, tensor: Tensor) -> Tensor:
        """A bfloat16 tensor in float32, another one as it is."""
        return self.tensor(self.array(tensor)) if self.dtype(tensor) == "bfloat16" else tensor

    def dtype(self, tensor: Tensor) -> str:
        """Name of the tensor's type."""
        return str(tensor.dtype).rpartition(".")[2]

    def values_and_gradients(
        self, f: Callable[..., Tensor], arrays: Sequence[Array], upstream: Array
    ) -> tuple[Array, list[Array]]:
        """`differentiate`, from arrays to arrays."""
        y, gradients = self.differentiate(f, [self.tensor(a) for a in arrays], self.tensor(upstream))
        return self.array(y), [self.array(gradient) for gradient in gradients]

    def check(
        self,
        ours: Callable[..., Tensor],
        theirs: Callable[..., Tensor],
        oracle: Callable[..., Any],
        arrays: list[Array],
        tolerance: float = 2e-6,
    ) -> None:
        """Values and gradients agree, relative to the largest of each; the oracle's slopes are central differences."""
        wide = [a.astype(np.float64) for a in arrays]
        expected = np.asarray(oracle(*wide))
        upstream = draw(*expected.shape, seed=1)
        y, gradients = self.values_and_gradients(ours, arrays, upstream)
        y_theirs, gradients_theirs = self.values_and_gradients(theirs, arrays, upstream)
        assert y.shape == expected.shape
        for one, other in ((y, expected), (y, y_theirs), *zip(gradients, gradients_theirs, strict=True)):
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1.0, float(np.abs(other).max())))
        for i, gradient in enumerate(gradients):
            direction = draw(*wide[i].shape, seed=2).astype(np.float64)
            ends = [
                (upstream * oracle(*wide[:i], wide[i] + h * direction, *wide[i + 1 :])).sum() for h in (1e-6, -1e-6)
            ]
            scale = max(1.0, float(np.linalg.norm(gradient) * np.linalg.norm(direction)))
            assert abs((ends[0] - ends[1]) / 2e-6 - (gradient * direction).sum()) < 1e-5 * scale, f"argument {i}"
